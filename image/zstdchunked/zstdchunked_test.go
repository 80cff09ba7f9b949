package zstdchunked

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/estargz/zstdchunked"
	"github.com/klauspost/compress/zstd"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/image/index"
	"github.com/pantala/pantala/image/toc/toctest"
)

// compression makes estargz write frames of zstd.
type compression struct {
	*zstdchunked.Compressor
	*zstdchunked.Decompressor
}

// TestStargz: layers of the implementation in stargz-snapshotter, found by each way there is.
func TestStargz(t *testing.T) {
	archive := toctest.Archive()
	for name, o := range map[string][]estargz.Option{
		"plain":            {},
		"small chunks":     {estargz.WithChunkSize(50001)},
		"many in a member": {estargz.WithMinChunkSize(200000)},
	} {
		t.Run(name, func(t *testing.T) {
			annotations := map[string]string{}
			o = append(o, estargz.WithCompression(compression{
				&zstdchunked.Compressor{CompressionLevel: zstd.SpeedDefault, Metadata: annotations}, &zstdchunked.Decompressor{},
			}))
			b, err := estargz.Build(io.NewSectionReader(bytes.NewReader(archive), 0, int64(len(archive))), o...)
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			stored, err := io.ReadAll(b)
			if err != nil {
				t.Fatal(err)
			}
			layer := &toctest.Layer{Bytes: stored}
			decoded := map[string]string{Decoded: b.TOCDigest().String()}
			for i, a := range []map[string]string{annotations, decoded, nil} {
				if Pinned(a) != (a != nil) {
					t.Errorf("%v: pinned: %v", a, Pinned(a))
				}
				good(t, layer, a, archive)
				for name := range a {
					bad := map[string]string{}
					for k, v := range a {
						bad[k] = v
					}
					bad[name] = "sha256:" + strings.Repeat("0", 64)
					if _, _, _, _, err := Parse(context.Background(), layer, bad); err == nil {
						t.Errorf("way %d: any value of %s will do", i, name)
					}
				}
			}
		})
	}
}

func good(t *testing.T, layer *toctest.Layer, annotations map[string]string, archive []byte) {
	t.Helper()
	layer.Read = 0
	facts, entries, spans, windows, err := Parse(context.Background(), layer, annotations)
	if err != nil {
		t.Fatal(err)
	}
	if layer.Read > 20000 {
		t.Errorf("%d bytes read of %d", layer.Read, layer.Size())
	}
	if facts.Format != "zstd:chunked" || facts.Stored != layer.Size() {
		t.Errorf("facts %+v", facts)
	}
	toctest.Compare(t, archive, entries, toctest.Space(t, layer, facts, spans, windows))
}

// member is a record as containers/storage writes it.
type member struct {
	Type        string            `json:"type"`
	Name        string            `json:"name"`
	Linkname    string            `json:"linkName,omitempty"`
	Mode        int64             `json:"mode,omitempty"`
	Size        int64             `json:"size,omitempty"`
	UID         int               `json:"uid,omitempty"`
	GID         int               `json:"gid,omitempty"`
	ModTime     *time.Time        `json:"modtime,omitempty"`
	AccessTime  *time.Time        `json:"accesstime,omitempty"`
	Devmajor    int64             `json:"devMajor,omitempty"`
	Devminor    int64             `json:"devMinor,omitempty"`
	Xattrs      map[string]string `json:"xattrs,omitempty"`
	Digest      string            `json:"digest,omitempty"`
	Offset      int64             `json:"offset,omitempty"`
	EndOffset   int64             `json:"endOffset,omitempty"`
	ChunkSize   int64             `json:"chunkSize,omitempty"`
	ChunkOffset int64             `json:"chunkOffset,omitempty"`
	ChunkDigest string            `json:"chunkDigest,omitempty"`
	ChunkType   string            `json:"chunkType,omitempty"`
}

// containers writes a layer the way containers/storage does: headers and padding in frames between those of chunks,
// chunks of any length, zeros as holes.
func containers(t testing.TB, archive []byte) ([]byte, map[string]string) {
	t.Helper()
	names := map[byte]string{tar.TypeReg: "reg", tar.TypeLink: "hardlink", tar.TypeSymlink: "symlink", tar.TypeChar: "char", tar.TypeBlock: "block", tar.TypeDir: "dir", tar.TypeFifo: "fifo"}
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	frame := func(p []byte) {
		if len(p) > 0 {
			out.Write(enc.EncodeAll(p, nil))
		}
	}
	skippable := func(p []byte) int {
		binary.Write(&out, binary.LittleEndian, []uint32{0x184D2A50, uint32(len(p))})
		at := out.Len()
		out.Write(p)
		return at
	}
	digest := func(p []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(p)) }
	var members []member
	source := bytes.NewReader(archive)
	r := tar.NewReader(source)
	rnd := rand.New(rand.NewPCG(5, 6))
	passed := 0
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		begin := len(archive) - source.Len()
		frame(archive[passed:begin])
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		passed = len(archive) - source.Len()
		m := member{Type: names[h.Typeflag], Name: h.Name, Linkname: h.Linkname, Mode: h.Mode, Size: h.Size, UID: h.Uid, GID: h.Gid, Devmajor: h.Devmajor, Devminor: h.Devminor, Xattrs: map[string]string{}}
		if !h.ModTime.IsZero() {
			m.ModTime = &h.ModTime
		}
		for k, v := range h.PAXRecords {
			if name, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
				m.Xattrs[name] = base64.StdEncoding.EncodeToString([]byte(v))
			}
		}
		var chunks []member
		for at := 0; at < len(content); {
			rest := content[at:]
			zeros := len(rest) - len(bytes.TrimLeft(rest, "\x00"))
			c := member{Type: "chunk", Name: h.Name, ChunkOffset: int64(at), Offset: int64(out.Len())}
			if zeros >= 1024 {
				c.ChunkSize, c.ChunkType = int64(zeros), "zeros"
			} else {
				n := min(len(rest), 1+rnd.IntN(60000))
				if i := bytes.Index(rest[zeros:n], make([]byte, 1024)); i >= 0 {
					n = zeros + i
				}
				c.ChunkSize, c.ChunkDigest = int64(n), digest(rest[:n])
				frame(rest[:n])
			}
			chunks = append(chunks, c)
			at += int(c.ChunkSize)
		}
		if len(chunks) > 0 {
			m.Digest, m.Offset, m.EndOffset = digest(content), chunks[0].Offset, int64(out.Len())
		}
		if len(chunks) > 1 || len(chunks) == 1 && chunks[0].ChunkType != "" {
			m.ChunkSize, m.ChunkDigest, m.ChunkType = chunks[0].ChunkSize, chunks[0].ChunkDigest, chunks[0].ChunkType
			members = append(append(members, m), chunks[1:]...)
		} else {
			members = append(members, m)
		}
	}
	frame(archive[passed:])
	table, err := json.Marshal(map[string]any{"version": 1, "entries": members, "tarSplitDigest": digest(nil)})
	if err != nil {
		t.Fatal(err)
	}
	packed := enc.EncodeAll(table, nil)
	at := skippable(packed)
	split := skippable([]byte("as good as anything"))
	foot := new(bytes.Buffer)
	binary.Write(foot, binary.LittleEndian, []int64{int64(at), int64(len(packed)), int64(len(table)), 1, int64(split), 19, 100})
	foot.WriteString("GNUlInUx")
	skippable(foot.Bytes())
	return out.Bytes(), map[string]string{
		Checksum: digest(packed),
		Position: fmt.Sprintf("%d:%d:%d:1", at, len(packed), len(table)),
	}
}

// TestContainers: layers as Podman, Buildah and Skopeo write them.
func TestContainers(t *testing.T) {
	archive := toctest.Archive()
	stored, annotations := containers(t, archive)
	layer := &toctest.Layer{Bytes: stored}
	if !Pinned(annotations) {
		t.Error("not pinned")
	}
	good(t, layer, annotations, archive)
	good(t, layer, map[string]string{Checksum: annotations[Checksum]}, archive)
	good(t, layer, nil, archive)

	// Holes take no room.
	facts, _, _, _, err := Parse(context.Background(), layer, annotations)
	if err != nil {
		t.Fatal(err)
	}
	if most := int64(len(archive) - 600000); facts.Size > most {
		t.Errorf("an address space of %d bytes; the holes alone are more than 600000 of %d", facts.Size, len(archive))
	}
}

// TestOthers: layers of other formats cost no more than a footer.
func TestOthers(t *testing.T) {
	enc, _ := zstd.NewWriter(nil)
	for name, b := range map[string][]byte{"zstd": enc.EncodeAll(toctest.Archive(), nil), "tar": toctest.Archive(), "empty": nil, "short": []byte("GNUlInUx")} {
		layer := &toctest.Layer{Bytes: b}
		_, _, _, _, err := Parse(context.Background(), layer, nil)
		if err != index.ErrFormat || !errors.Is(err, blob.ErrNotFound) || layer.Read > newFooter+frameHeader {
			t.Errorf("%s: %v after %d bytes", name, err, layer.Read)
		}
	}
}

// TestPosition: annotations and footers that lead elsewhere.
func TestPosition(t *testing.T) {
	stored, annotations := containers(t, toctest.Archive())
	layer := &toctest.Layer{Bytes: stored}
	for _, text := range []string{
		"", "1", "1:2:3", "1:2:3:4:5", "a:b:c:d", "-1:2:3:1", "0:10:10:1", "8:10:10:1", "99999999999:10:10:1", "18446744073709551615:10:10:1",
		"9:99999999:10:1", "9:100000000:10:1", "9:10:1000000000:1", "9:10:10:2", "9:10:10:1",
	} {
		a := map[string]string{Position: text, Checksum: annotations[Checksum]}
		if _, _, _, _, err := Parse(context.Background(), layer, a); !errors.Is(err, blob.ErrCorrupt) && !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("%q: %v", text, err)
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		bad := &toctest.Layer{Bytes: bytes.Clone(stored)}
		bad.Bytes[len(stored)-1-r.IntN(1500)] ^= 1 << r.IntN(8)
		for _, a := range []map[string]string{annotations, nil} {
			if _, _, _, _, err := Parse(context.Background(), bad, a); err != nil && !errors.Is(err, blob.ErrCorrupt) && !errors.Is(err, blob.ErrInvalid) && err != index.ErrFormat {
				t.Errorf("class of %v", err)
			}
		}
	}
}
