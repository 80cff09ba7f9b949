// Package artifact is how the indexes of an image's layers lie in a registry: one artefact (OCI image specification
// 1.1, "Guidelines for Artifact Usage") that refers to the image's manifest as its subject, with one blob for each
// index, and a signature for each where somebody vouches for them ([Statement]).
//
// Whoever can write to a repository can put such an artefact there. So it is worth what its signatures are worth, by
// keys that a node was told ([Keys]); one without is not used at all.
//
// # Place
//
// In image, beside index: it knows blob, and nothing of how a registry is spoken to.
//
// # Goroutines
//
// None.
//
// # Locks
//
// None: everything is constant once it is made.
//
// # Errors
//
// [blob.ErrInvalid]: a manifest that is no such artefact, or a file that is no such key.
package artifact
