// Package config puts together what a node is told to be: defaults, then the configuration file, then
// PANTALA_* variables, then command-line flags, each over the one before. A key nobody knows is refused, and
// the nearest known one is named: a setting with a typing error must not be silently without effect.
//
// # Place
//
// Between cmd/pantala, which reads the flags, and node, which builds its parts from a [Config]. It imports
// nothing of the house but blob.
//
// # Goroutines
//
// None are started. A [Config] is a value; it is not changed once [Load] has returned it.
//
// # Locks
//
// None.
//
// # Errors
//
// All errors wrap blob.ErrInvalid, but a configuration file that cannot be read, which wraps what the
// operating system said. Each names where the value came from, the key, and what would be right.
package config
