// Package control is how a command speaks to a node that runs in the background: HTTP and JSON over the unix
// socket in the node's state directory.
//
// # Place
//
// Between cmd/pantala and node, on no read path. [Server] answers requests from a [Node], which node.Node
// implements; [Client] implements the same methods at the other end. Who may open the socket (mode 0600, in
// a directory of mode 0700) may do everything, so nothing else is checked.
//
// # Goroutines
//
// [Server] owns those of its http.Server and waits for them in Close. A [Client] starts none that outlive a
// call.
//
// # Locks
//
// None.
//
// # Errors
//
// An error crosses the socket as its text and its class, so that a command exits with the same code as if it
// had done the work itself: errors.Is finds blob's classes, [ErrLocal] and context errors again. A client
// that finds nobody at the socket returns [ErrNoDaemon].
package control
