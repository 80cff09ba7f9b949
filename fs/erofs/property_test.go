package erofs

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// TestLikeUmoci: random images over few names, in which everything meets everything, come out as umoci unpacks them, or
// are refused by both.
func TestLikeUmoci(t *testing.T) {
	needRoot(t)
	needProgram(t, "umoci", "apt-get install umoci")
	refused, unpacked := 0, 0
	rapid.Check(t, func(r *rapid.T) {
		layers := rapid.SliceOfN(rapid.Custom(drawLayer), 1, 4).Draw(r, "layers")
		dir, err := os.MkdirTemp("", "pantala-like-umoci-")
		if err != nil {
			r.Fatal(err)
		}
		defer os.RemoveAll(dir)
		raw := make([][]byte, len(layers))
		for i, l := range layers {
			raw[i] = archive(l...)
		}
		writeLayout(t, filepath.Join(dir, "oci"), raw)
		root, since, uerr := unpack(t, filepath.Join(dir, "oci")+":x", filepath.Join(dir, "bundle"))
		merged, err := merge(raw...)
		if (err == nil) != (uerr == nil) {
			r.Fatalf("umoci: %v\nwe: %v\n%s", uerr, err, describe(layers))
		}
		if err != nil {
			refused++
			return
		}
		unpacked++
		var b bytes.Buffer
		if _, err := Write(&b, merged, Options{}); err != nil {
			r.Fatal(err)
		}
		img, err := Open(bytes.NewReader(b.Bytes()), int64(b.Len()))
		if err != nil {
			r.Fatal(err)
		}
		if all := differences(lookAt(t, root, since), lookInto(t, img, raw)); len(all) > 0 {
			r.Fatalf("%s\n%s", strings.Join(all, "\n"), describe(layers))
		}
	})
	t.Logf("%d unpacked, %d refused", unpacked, refused)
	if unpacked == 0 {
		t.Error("nothing was compared")
	}
}

func describe(layers [][]member) string {
	var s strings.Builder
	for i, l := range layers {
		for _, m := range l {
			fmt.Fprintf(&s, "layer %d: %c %q -> %q %o\n", i, m.flag, m.name, m.link, m.mode)
		}
	}
	return s.String()
}

func drawPath(r *rapid.T) string {
	names := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c", "d"}), 1, 3).Draw(r, "path")
	return strings.Join(names, "/")
}

func drawLayer(r *rapid.T) []member {
	return rapid.SliceOfN(rapid.Custom(drawMember), 1, 8).Draw(r, "members")
}

func drawMember(r *rapid.T) member {
	m := member{name: drawPath(r), mode: 0o644, sec: rapid.Int64Range(0, 1e9).Draw(r, "time")}
	switch kind := rapid.IntRange(0, 19).Draw(r, "kind"); {
	case kind < 5:
		m.flag, m.body = tar.TypeReg, m.name
	case kind < 9:
		m.flag, m.mode = tar.TypeDir, rapid.SampledFrom([]int64{0o755, 0o2750, 0o1777}).Draw(r, "mode")
		m.gid = rapid.Int64Range(0, 3).Draw(r, "gid")
	case kind < 13:
		m.flag = tar.TypeSymlink
		m.link = rapid.SampledFrom([]string{"", "/", "../", "../../", "./"}).Draw(r, "from") + drawPath(r)
	case kind < 16:
		m.flag, m.link = tar.TypeLink, drawPath(r)
	case kind < 18:
		m.flag = tar.TypeReg
		dir, base := filepath.Split(m.name)
		m.name = dir + ".wh." + base
	case kind < 19:
		m.flag, m.name = tar.TypeReg, m.name+"/.wh..wh..opq"
	default:
		m = xattr(m, "user.x", m.name)
		m.flag = tar.TypeReg
	}
	return m
}
