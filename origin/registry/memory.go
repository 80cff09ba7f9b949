package registry

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/pantala/pantala/blob"
)

// memory keeps what Resolve has learned: which digest a tag had, and the manifests, indexes and configurations by
// their digest. In a folder it outlives the process. It is a cache: what cannot be read is not there.
type memory struct {
	dir string // "" for none

	mu    sync.Mutex
	tags  map[string]tagRecord // by reference; guarded by mu
	docs  map[blob.Hash][]byte // without a folder; guarded by mu
	bytes int64                // of docs, or of the files in the folder; guarded by mu
}

// tagRecord is what a tag meant, and when.
type tagRecord struct {
	Ref    string    `json:"ref"`
	Digest string    `json:"digest"`
	Seen   time.Time `json:"seen"`

	failed time.Time // when nobody could be asked; not kept
}

// maxMemory bounds the documents that are kept. A manifest with its configuration is 5 to 50 KiB, so that is
// thousands of images.
const maxMemory = 64 << 20

func newMemory(dir string) (*memory, error) {
	m := &memory{dir: dir, tags: map[string]tagRecord{}, docs: map[blob.Hash][]byte{}}
	if dir == "" {
		return m, nil
	}
	for _, d := range []string{"tags", "docs"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return nil, fmt.Errorf("registry: %w: %v", blob.ErrDenied, err)
		}
	}
	m.prune()
	return m, nil
}

// prune counts the documents of the folder and removes those that were not used for longest, until half of the bound
// is left.
func (m *memory) prune() {
	type file struct {
		path string
		size int64
		used time.Time
	}
	var files []file
	var total int64
	list, _ := os.ReadDir(filepath.Join(m.dir, "docs"))
	for _, f := range list {
		if info, err := f.Info(); err == nil {
			files = append(files, file{filepath.Join(m.dir, "docs", f.Name()), info.Size(), info.ModTime()})
			total += info.Size()
		}
	}
	if total > maxMemory {
		slices.SortFunc(files, func(a, b file) int { return a.used.Compare(b.used) })
		for _, f := range files {
			if total <= maxMemory/2 {
				break
			}
			if os.Remove(f.path) == nil {
				total -= f.size
			}
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.bytes = total
}

func (m *memory) docPath(h blob.Hash) string { return filepath.Join(m.dir, "docs", h.String()) }

func (m *memory) tagPath(ref string) string {
	return filepath.Join(m.dir, "tags", fmt.Sprintf("%x.json", sha256.Sum256([]byte(ref))))
}

// doc is a document by its digest, nil when it is not there.
func (m *memory) doc(h blob.Hash) []byte {
	m.mu.Lock()
	p := m.docs[h]
	m.mu.Unlock()
	if m.dir == "" || p != nil {
		return p
	}
	p, err := os.ReadFile(m.docPath(h))
	if err != nil {
		return nil
	}
	if sha256.Sum256(p) != h {
		os.Remove(m.docPath(h))
		return nil
	}
	now := time.Now()
	os.Chtimes(m.docPath(h), now, now) // it is in use: prune takes others first
	return p
}

// putDoc keeps a document.
func (m *memory) putDoc(h blob.Hash, p []byte) {
	m.mu.Lock()
	m.bytes += int64(len(p))
	full := m.bytes > maxMemory
	if m.dir == "" {
		if full {
			clear(m.docs)
			m.bytes = int64(len(p))
		}
		m.docs[h] = p
	}
	m.mu.Unlock()
	if m.dir == "" {
		return
	}
	m.write(m.docPath(h), p)
	if full {
		m.prune()
	}
}

// tag is what a reference meant; false when nobody remembers.
func (m *memory) tag(ref string) (tagRecord, blob.Hash, bool) {
	m.mu.Lock()
	r, ok := m.tags[ref]
	m.mu.Unlock()
	if !ok && m.dir != "" {
		text, err := os.ReadFile(m.tagPath(ref))
		ok = err == nil && json.Unmarshal(text, &r) == nil && r.Ref == ref
	}
	h, err := blob.ParseDigest(r.Digest)
	return r, h, ok && err == nil
}

// putTag remembers what a reference means now.
func (m *memory) putTag(ref string, h blob.Hash) {
	r := tagRecord{Ref: ref, Digest: "sha256:" + h.String(), Seen: time.Now()}
	m.mu.Lock()
	m.tags[ref] = r
	m.mu.Unlock()
	if m.dir != "" {
		if text, err := json.Marshal(r); err == nil {
			m.write(m.tagPath(ref), text)
		}
	}
}

// tagFailed remembers that nobody could be asked what a reference means.
func (m *memory) tagFailed(r tagRecord) {
	r.failed = time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tags[r.Ref] = r
}

// write replaces a file as a whole. What fails is not kept.
func (m *memory) write(path string, p []byte) {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return
	}
	_, err = f.Write(p)
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
}
