package zstdspan

import "github.com/pantala/pantala/blob"

// damage is what is wrong with a stream; its class is blob.ErrCorrupt.
type damage string

func (d damage) Error() string { return blob.ErrCorrupt.Error() + ": zstd: " + string(d) }

func (d damage) Unwrap() error { return blob.ErrCorrupt }

// refusal is what this decoder does not do; its class is blob.ErrInvalid.
type refusal string

func (r refusal) Error() string { return blob.ErrInvalid.Error() + ": zstd: " + string(r) }

func (r refusal) Unwrap() error { return blob.ErrInvalid }
