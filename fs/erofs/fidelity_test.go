package erofs

import (
	"bytes"
	"cmp"
	"compress/bzip2"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/image/index"
	"github.com/pantala/pantala/image/tree"
)

// TestFidelity: for every nasty image the mounted tree, and the tree as the reader sees it, equal what umoci unpacks as
// root, attribute by attribute; and what umoci refuses we refuse, except where a case says otherwise.
func TestFidelity(t *testing.T) {
	needErofs(t)
	for _, c := range append(nasty(), sparse()...) {
		t.Run(c.name, func(t *testing.T) { c.compare(t) })
	}
}

// TestStandardCorpus is TestFidelity for every archive that the Go library is tested with.
func TestStandardCorpus(t *testing.T) {
	needErofs(t)
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(root)), "src/archive/tar/testdata/*.tar*"))
	if err != nil || len(files) < 20 {
		need(t, "the Go library's test data", cmp.Or(err, os.ErrNotExist), "install Go from its source archive")
	}
	unlike := map[string]string{ // what umoci refuses although tar(1) unpacks it, and containerd the last one
		"gnu-incremental.tar":           "umoci does not know the directories of incremental archives",
		"gnu-nil-sparse-data.tar":       "umoci does not know GNU's sparse files from before PAX",
		"gnu-nil-sparse-hole.tar":       "umoci does not know GNU's sparse files from before PAX",
		"gnu-sparse-big.tar.base64":     "umoci does not know GNU's sparse files from before PAX",
		"gnu-sparse-many-zeros.tar.bz2": "umoci does not know GNU's sparse files from before PAX",
		"pax-global-records.tar":        "umoci takes global PAX records for entries",
	}
	for _, f := range files {
		name := filepath.Base(f)
		if name == "pax-sparse-big.tar.base64" {
			continue // umoci would write its holes out, 60 GB of them; TestSparse has as large ones
		}
		t.Run(name, func(t *testing.T) {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			switch filepath.Ext(f) {
			case ".base64":
				b, err = io.ReadAll(base64.NewDecoder(base64.StdEncoding, bytes.NewReader(b)))
			case ".bz2":
				b, err = io.ReadAll(bzip2.NewReader(bytes.NewReader(b)))
			}
			if err != nil {
				t.Fatal(err)
			}
			c := image{name: name, layers: [][]byte{b}, either: true}
			if why, ok := unlike[name]; ok {
				t.Log(why)
				c.alone = true
			}
			c.compare(t)
		})
	}
}

// compare has one image unpacked and mounted.
func (c *image) compare(t *testing.T) {
	dir := t.TempDir()
	writeLayout(t, filepath.Join(dir, "oci"), c.layers)
	root, since, uerr := umoci(t, filepath.Join(dir, "oci")+":x")
	merged, err := merge(c.layers...)
	if err != nil {
		if !c.refused && !c.either {
			t.Fatalf("%v; umoci: %v", err, uerr)
		}
		if !errors.Is(err, blob.ErrInvalid) && !errors.Is(err, blob.ErrCorrupt) {
			t.Errorf("class of %v", err)
		}
		if uerr == nil && !c.alone {
			t.Fatalf("umoci unpacks what we refuse: %v", err)
		}
		t.Logf("refused: %v", err)
		return
	}
	switch {
	case c.refused:
		t.Fatalf("not refused; umoci: %v", uerr)
	case uerr != nil && !c.alone:
		t.Fatalf("umoci refuses: %v", uerr)
	}
	var img, again bytes.Buffer
	n, err := Write(&img, merged, Options{})
	if err != nil || n != int64(img.Len()) {
		t.Fatalf("%d of %d bytes: %v", n, img.Len(), err)
	}
	if Write(&again, merged, Options{}); !bytes.Equal(img.Bytes(), again.Bytes()) {
		t.Error("written twice, it differs")
	}
	meta, devices := store(t, img.Bytes(), c.layers)
	checkImage(t, meta, devices, c.layers, merged)
	mounted := lookAt(t, mountTree(t, meta, devices), 0)
	opened, err := Open(bytes.NewReader(img.Bytes()), int64(img.Len()))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range differences(mounted, lookInto(t, opened, c.layers)) {
		t.Errorf("reader beside mount: %s", d)
	}
	if uerr == nil {
		for _, d := range differences(lookAt(t, root, since), mounted) {
			t.Error(d)
		}
	}
	if c.check != nil {
		c.check(t, mounted)
	}
}

// checkImage lets fsck.erofs look at the metadata. Debian's, 1.5, knows blocks of 4096 bytes only: it gets the same
// tree with that block size and the content of files moved to where that can express it; it does not read content.
func checkImage(t *testing.T, meta string, devices []string, layers [][]byte, merged *tree.Tree) {
	t.Helper()
	program := needProgram(t, "fsck.erofs", "apt-get install erofs-utils")
	moved, err := merge4096(layers)
	if err != nil {
		t.Fatal(err)
	}
	if moved.Len() != merged.Len() {
		t.Fatalf("%d inodes, %d with larger blocks", merged.Len(), moved.Len())
	}
	var img bytes.Buffer
	if _, err := Write(&img, moved, Options{BlockBits: 12}); err != nil {
		t.Fatal(err)
	}
	large := filepath.Join(t.TempDir(), "meta4096")
	if err := os.WriteFile(large, img.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	fsck(t, program, large, devices)
	// A newer one, where there is one, looks at the image itself.
	if newer := os.Getenv("FSCK_EROFS"); newer != "" {
		fsck(t, newer, meta, devices)
	}
}

func fsck(t *testing.T, program, meta string, devices []string) {
	t.Helper()
	var args []string
	for _, d := range devices {
		args = append(args, "--device="+d)
	}
	out, err := exec.Command(program, append(args, meta)...).CombinedOutput()
	if err != nil || bytes.Contains(out, []byte("<E>")) {
		t.Errorf("%s: %v\n%s", program, err, out)
	}
}

// merge4096 is merge with every extent's places, and the holes between them, eight times as large, so that they fall on
// blocks of 4096 bytes.
func merge4096(layers [][]byte) (*tree.Tree, error) {
	var in []tree.Layer
	for i, l := range layers {
		in = append(in, tree.Layer{Name: fmt.Sprint("layer", i), Size: 8 * int64(len(l)), Entries: func(yield func(index.Entry, error) bool) {
			for e, err := range entriesOf(l) {
				e.Size *= 8
				for i := range e.Extents {
					x := &e.Extents[i]
					*x = index.Extent{File: 8 * x.File, Device: 8 * x.Device, Length: 8 * x.Length}
				}
				if !yield(e, err) {
					return
				}
			}
		}})
	}
	return tree.Merge(in)
}
