//go:build !purego

package blob_test

// pureGo: built without assembly.
const pureGo = false
