package erofs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/pantala/pantala/blob"
)

// TestFidelity: for every nasty image the mounted tree, and the tree as the reader sees it, equal what umoci unpacks as
// root, attribute by attribute; and what umoci refuses we refuse, except where a case says otherwise.
func TestFidelity(t *testing.T) {
	needErofs(t)
	for _, c := range nasty() {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			writeLayout(t, filepath.Join(dir, "oci"), c.layers)
			root, since, uerr := umoci(t, filepath.Join(dir, "oci")+":x")
			merged, err := merge(c.layers...)
			switch {
			case c.refused && err == nil:
				t.Fatalf("not refused; umoci: %v", uerr)
			case c.refused:
				if !errors.Is(err, blob.ErrInvalid) && !errors.Is(err, blob.ErrCorrupt) {
					t.Errorf("class of %v", err)
				}
				if uerr == nil && !c.alone {
					t.Fatalf("umoci unpacks what we refuse: %v", err)
				}
				t.Logf("refused: %v", err)
				return
			case err != nil:
				t.Fatalf("%v; umoci: %v", err, uerr)
			case uerr != nil && !c.alone:
				t.Fatalf("umoci refuses: %v", uerr)
			}
			var img bytes.Buffer
			n, err := Write(&img, merged, Options{})
			if err != nil || n != int64(img.Len()) {
				t.Fatalf("%d of %d bytes: %v", n, img.Len(), err)
			}
			var again bytes.Buffer
			if Write(&again, merged, Options{}); !bytes.Equal(img.Bytes(), again.Bytes()) {
				t.Error("written twice, it differs")
			}
			meta := filepath.Join(dir, "meta")
			if err := os.WriteFile(meta, img.Bytes(), 0o600); err != nil {
				t.Fatal(err)
			}
			var devices []string
			for i, l := range c.layers {
				devices = append(devices, filepath.Join(dir, fmt.Sprint("layer", i)))
				if err := os.WriteFile(devices[i], l, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			mounted := lookAt(t, mountTree(t, meta, devices), 0)
			opened, err := Open(bytes.NewReader(img.Bytes()), int64(img.Len()))
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range differences(mounted, lookInto(t, opened, c.layers)) {
				t.Errorf("reader beside mount: %s", d)
			}
			if uerr != nil {
				if c.check != nil {
					c.check(t, mounted)
				}
				return // the case says what it expects
			}
			want := lookAt(t, root, since)
			for _, d := range differences(want, mounted) {
				t.Error(d)
			}
			if c.check != nil {
				c.check(t, mounted)
			}
		})
	}
}
