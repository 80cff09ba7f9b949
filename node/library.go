package node

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/metainfo"
)

// library remembers what torrents that were opened are made of, so that they can be opened again without anybody
// who has it: a .torrent, or an info dictionary that came from peers, in a file named after its infohash, and for
// each source a file that says which one it was. What it reads is checked against the infohash. It has no state of
// its own.
type library struct{ dir string }

// libraryDir is the directory of remembered torrents in a state directory.
func libraryDir(state string) string { return filepath.Join(state, "torrents") }

// libraryAge is how long a torrent that nobody opens is remembered: its blobs may have been evicted long before.
const libraryAge = 90 * 24 * time.Hour

func (l library) path(id blob.ID, ext string) string {
	return filepath.Join(l.dir, strings.ReplaceAll(id.String(), ":", "-")+ext)
}

func (l library) link(source string) string {
	return filepath.Join(l.dir, fmt.Sprintf("source-%x", sha256.Sum256([]byte(source))))
}

// put remembers a torrent, under its infohashes and, unless it is "", the source it came from.
func (l library) put(m *metainfo.MetaInfo, source string) error {
	ids := []blob.ID{m.Info.ID()}
	if m.Info.HasV1 && m.Info.HasV2 {
		ids = append(ids, metainfo.V1ID(m.Info.InfoHashV1))
	}
	content, ext := m.Append(nil), ".torrent"
	if _, err := metainfo.Parse(bytes.NewReader(content)); err != nil { // it has no piece layers
		content, ext = m.Info.Raw, ".info"
	}
	err := os.MkdirAll(l.dir, 0o700)
	for _, id := range ids {
		err = errors.Join(err, replace(l.path(id, ext), content))
	}
	if source != "" {
		err = errors.Join(err, replace(l.link(source), []byte(ids[0].String())))
	}
	return err
}

// replace writes a file so that its readers see the old one or the new one.
func replace(path string, content []byte) error {
	tmp := path + ".new"
	if err := os.WriteFile(tmp, content, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// get is the torrent with this infohash.
func (l library) get(id blob.ID) (*metainfo.MetaInfo, bool) {
	is := func(i *metainfo.Info) bool {
		return i.ID() == id || i.HasV1 && metainfo.V1ID(i.InfoHashV1) == id
	}
	touch := func(path string) {
		now := time.Now()
		os.Chtimes(path, now, now)
	}
	if f, err := os.Open(l.path(id, ".torrent")); err == nil {
		defer f.Close()
		if m, err := metainfo.Parse(f); err == nil && is(m.Info) {
			touch(f.Name())
			return m, true
		}
	}
	raw, err := os.ReadFile(l.path(id, ".info"))
	if err != nil {
		return nil, false
	}
	info, err := metainfo.ParseInfo(raw)
	if err != nil || !is(info) {
		return nil, false
	}
	touch(l.path(id, ".info"))
	return &metainfo.MetaInfo{Info: info}, true
}

// has reports whether a torrent with this id, written as a file name, is remembered.
func (l library) has(name string) bool {
	for _, ext := range []string{".torrent", ".info"} {
		if _, err := os.Stat(filepath.Join(l.dir, name+ext)); err == nil {
			return true
		}
	}
	return false
}

// from is the torrent that came from source.
func (l library) from(source string) (*metainfo.MetaInfo, bool) {
	raw, err := os.ReadFile(l.link(source))
	if err != nil {
		return nil, false
	}
	id, err := blob.ParseID(string(raw))
	if err != nil {
		return nil, false
	}
	return l.get(id)
}

// sweep forgets what nobody has opened for long.
func (l library) sweep() error {
	all, err := os.ReadDir(l.dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, e := range all {
		if st, e2 := e.Info(); e2 == nil && time.Since(st.ModTime()) > libraryAge {
			err = errors.Join(err, os.Remove(filepath.Join(l.dir, e.Name())))
		}
	}
	return err
}
