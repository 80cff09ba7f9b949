package origin_test

import (
	"context"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/origin"
	"github.com/pantala/pantala/origin/origintest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// within is a context that ends long before the test binary's own limit.
func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func newClient(t testing.TB, o origin.Options) *origin.Client {
	t.Helper()
	c, err := origin.NewClient(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func open(t testing.TB, c *origin.Client, url string, o origin.Options) *origin.Object {
	t.Helper()
	obj, err := c.Open(within(t, 20*time.Second), url, o)
	if err != nil {
		t.Fatalf("Open(%s): %v", url, err)
	}
	return obj
}

// fetchAll fetches the whole object and compares it.
func fetchAll(t testing.TB, obj *origin.Object, want []byte) *origintest.Sink {
	t.Helper()
	sink := origintest.NewSink(t, obj.Size())
	if err := obj.Fetch(within(t, 20*time.Second), sink.All(), sink); err != nil {
		t.Fatalf("Fetch: %v", err)
	}
	sink.Check(sink.All(), want)
	return sink
}

// streamAll is what Stream gives.
func streamAll(t testing.TB, obj *origin.Object) ([]byte, error) {
	t.Helper()
	var got []byte
	err := obj.Stream(within(t, 20*time.Second), func(p []byte) error {
		if len(got)%(blob.MaxBuffer*blob.BlockSize) != 0 {
			t.Errorf("Stream: a slice of %d bytes follows a short one", len(p))
		}
		got = append(got, p...)
		return nil
	})
	return got, err
}

// impatient are options for tests of failures that last.
var impatient = origin.Options{Retries: 1, Stall: 200 * time.Millisecond}
