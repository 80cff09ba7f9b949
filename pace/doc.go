// Package pace decides when bytes may move, so that a host, a tenant, a class and a transfer each keep to its rate, and so
// that what somebody is blocked on does not wait behind what nobody is.
//
// A [Bucket] is one rate. A transfer asks along a [Path] of them, such as its own, its tenant's, its class's and the
// host's, and waits until all let it pass. A bucket of a class ([Group.ClassBucket]) does not see the others. Buckets are filled with bytes at their rate; whoever passes takes its bytes out, and
// may leave a debt that those after it wait for. Urgent classes may run up a debt before they wait themselves: in
// the long run every class keeps to the rate, but a page fault passes at once what a download has used up, and the
// download then waits for both.
//
// # Place
//
// Just above blob. swarm asks before it uploads, fetch before it lends memory to a source, node owns the buckets.
//
// # Goroutines
//
// None are started; a timer of the runtime calls those up whose time has come.
//
// # Locks
//
// Group.mu guards all buckets of a group and who waits for them. Nothing is called with it held.
//
// # Errors
//
// Only those of the context that a caller waits with.
package pace
