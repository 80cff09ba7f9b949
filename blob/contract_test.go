package blob_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/pantala/pantala/blob"
)

func TestClassTravelsInContext(t *testing.T) {
	if got := blob.ClassOf(context.Background()); got != blob.Fault {
		t.Errorf("a context without a class is %v, want the most urgent", got)
	}
	ctx := blob.WithClass(context.Background(), blob.Readahead)
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	if got := blob.ClassOf(inner); got != blob.Readahead {
		t.Errorf("class of a derived context = %v", got)
	}
	if got := blob.ClassOf(blob.WithClass(inner, blob.Read)); got != blob.Read {
		t.Errorf("class set again = %v", got)
	}
}

// TestClassOrder: fetch and the wire compare classes; lower must stay more urgent.
func TestClassOrder(t *testing.T) {
	if !(blob.Fault < blob.Read && blob.Read < blob.Readahead && blob.Readahead < blob.Background) {
		t.Error("classes are not ordered by urgency")
	}
	for c, want := range map[blob.Class]string{blob.Fault: "fault", blob.Read: "read", blob.Readahead: "readahead", blob.Background: "background", 200: "background"} {
		if got := c.String(); got != want {
			t.Errorf("Class(%d) = %q, want %q", uint8(c), got, want)
		}
	}
}

// TestTrustOrder: stores keep the higher of two trusts; the zero value must be the one that is never believed.
func TestTrustOrder(t *testing.T) {
	var zero blob.Trust
	if zero != blob.Unknown {
		t.Errorf("the zero trust is %v", zero)
	}
	words := []string{"unknown", "claimed", "direct", "pinned", "signed", "built"}
	for i, tr := range []blob.Trust{blob.Unknown, blob.Claimed, blob.Direct, blob.Pinned, blob.Signed, blob.Built} {
		if int(tr) != i || tr.String() != words[i] {
			t.Errorf("trust %d is %d %q, want %q", i, tr, tr, words[i])
		}
	}
	if got := blob.Trust(99).String(); got != "built" {
		t.Errorf("Trust(99) = %q", got)
	}
}

// TestErrorClassesAreDistinct: wrapping keeps the class, and no class is another one.
func TestErrorClassesAreDistinct(t *testing.T) {
	classes := []error{blob.ErrNotFound, blob.ErrUnavailable, blob.ErrCorrupt, blob.ErrDenied, blob.ErrChanged,
		blob.ErrNoSpace, blob.ErrInvalid, blob.ErrAbsent, blob.ErrClosed}
	for i, a := range classes {
		wrapped := fmt.Errorf("origin says: %w", a)
		for j, b := range classes {
			if got := errors.Is(wrapped, b); got != (i == j) {
				t.Errorf("errors.Is(%v, %v) = %v", wrapped, b, got)
			}
		}
	}
}
