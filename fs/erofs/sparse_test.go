package erofs

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
)

// region is a stretch of a sparse file that has content.
type region struct{ at, n int64 }

// content is what a test's sparse file holds there: no block like another.
func (r region) content() []byte {
	b := make([]byte, r.n)
	for i := range b {
		b[i] = byte(1 + (r.at+int64(i))/7%251)
	}
	return b
}

func contents(all []region) (b []byte) {
	for _, r := range all {
		b = append(b, r.content()...)
	}
	return b
}

func numbers(all []region, sep string) string {
	var s strings.Builder
	for i, r := range all {
		if i > 0 {
			s.WriteString(sep)
		}
		fmt.Fprintf(&s, "%d%s%d", r.at, sep, r.n)
	}
	return s.String()
}

// sparse10, sparse01 and sparse00 are sparse files in the three forms of GNU's PAX headers (GNU tar manual, "Storing
// Sparse Files").
func sparse10(name string, size int64, all ...region) member {
	head := fmt.Sprintf("%d\n", len(all))
	if len(all) > 0 {
		head += numbers(all, "\n") + "\n"
	}
	return member{name: "GNUSparseFile.0/x", sec: 1e9, body: string(append(pad([]byte(head)), contents(all)...)), pax: []string{
		"GNU.sparse.major", "1", "GNU.sparse.minor", "0", "GNU.sparse.name", name, "GNU.sparse.realsize", fmt.Sprint(size)}}
}

func sparse01(name string, size int64, all ...region) member {
	return member{name: "GNUSparseFile.0/x", sec: 1e9, body: string(contents(all)), pax: []string{
		"GNU.sparse.size", fmt.Sprint(size), "GNU.sparse.numblocks", fmt.Sprint(len(all)), "GNU.sparse.map", numbers(all, ","), "GNU.sparse.name", name}}
}

func sparse00(name string, size int64, all ...region) member {
	m := member{name: name, sec: 1e9, body: string(contents(all)), pax: []string{
		"GNU.sparse.size", fmt.Sprint(size), "GNU.sparse.numblocks", fmt.Sprint(len(all))}}
	for _, r := range all {
		m.pax = append(m.pax, "GNU.sparse.offset", fmt.Sprint(r.at), "GNU.sparse.numbytes", fmt.Sprint(r.n))
	}
	return m
}

// sparseOld is an archive with one sparse file in GNU's form before PAX; at most four regions stand in its header.
func sparseOld(name string, size int64, all ...region) []byte {
	body := contents(all)
	b := block('S', name, "", &member{gnu: true, mode: 0o644, sec: 1e9}, len(body))
	for i, r := range all {
		octal(b[386+24*i:][:12], r.at)
		octal(b[398+24*i:][:12], r.n)
	}
	octal(b[483:495], size)
	seal(b)
	return append(pad(append(b, body...)), make([]byte, 1024)...)
}

func sparse() []image {
	one := func(members ...member) [][]byte { return [][]byte{archive(members...)} }
	var many []region
	for i := range int64(500) {
		many = append(many, region{i * 1536, 512})
	}
	old := []region{{0, 4096}, {8192, 1000}}
	return []image{
		{name: "sparse-middle", layers: one(sparse10("s", 1<<20, region{0, 4096}, region{1<<20 - 4096, 4096}))},
		{name: "sparse-forms", layers: one(sparse10("a", 100_000, region{4096, 8192}), sparse01("b", 100_000, region{4096, 8192}), sparse00("c", 100_000, region{4096, 8192}))},
		{name: "sparse-lead", layers: one(sparse10("s", 8192+123, region{8192, 123}))},
		{name: "sparse-tail", layers: one(sparse10("s", 64<<20+1, region{0, 512}))},
		{name: "sparse-hole-only", layers: one(sparse10("s", 1<<20, region{1 << 20, 0}), sparse01("t", 12345, region{12345, 0}))},
		{name: "sparse-odd-blocks", layers: one(sparse10("s", 20_000, region{512, 1536}, region{3584, 512}, region{10240, 9760}))},
		{name: "sparse-many", layers: one(sparse10("s", 500*1536, many...), file("after", "a"))},
		{name: "sparse-adjacent", layers: one(sparse10("s", 1<<16, region{0, 4096}, region{4096, 4096}, region{1 << 15, 512}, region{1<<15 + 512, 512}))},
		{name: "sparse-hardlink-whiteout", layers: [][]byte{
			archive(sparse10("s", 1<<20, region{65536, 65536}), hardlink("h", "s")),
			archive(gone("s"), file("other", "o")),
		}},
		// EROFS addresses blocks of 512 bytes: what begins between them cannot be expressed. GNU tar writes no such file.
		{name: "sparse-unaligned", layers: one(sparse10("s", 100_000, region{100, 1000}, region{50_000, 77})), refused: true, alone: true},
		{name: "sparse-unaligned-length", layers: one(sparse10("s", 100_000, region{0, 1000}, region{50_176, 77})), refused: true, alone: true},
		// umoci knows no such type; for tar(1) it is a sparse file like the others.
		{name: "sparse-old", layers: [][]byte{sparseOld("s", 9192, old...)}, alone: true, check: func(t *testing.T, got looks) {
			want := bytes.Join([][]byte{old[0].content(), make([]byte, 4096), old[1].content()}, nil)
			if s := got["s"]; s.Size != 9192 || s.Content != fmt.Sprintf("%x", sha256.Sum256(want)) {
				t.Errorf("%+v", s)
			}
		}},
	}
}
