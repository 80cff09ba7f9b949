package blockio

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pantala/pantala/blob"
)

// Meta describes a blob to people and to later mounts. It must not hold secrets: it is stored in the clear.
type Meta struct {
	Source    string    `json:"source,omitempty"`    // canonical URL, without credentials or signatures
	Name      string    `json:"name,omitempty"`      // file name
	Validator string    `json:"validator,omitempty"` // ETag or Last-Modified of this version
	Digest    string    `json:"digest,omitempty"`    // "sha256:…" when known
	ModTime   time.Time `json:"mod_time,omitzero"`   // Last-Modified of the origin
	Created   time.Time `json:"created,omitzero"`    // when this machine first stored it; set by the store
}

// origin of an imported file, as it was when it was imported.
type importOf struct {
	Path  string `json:"path"`
	Size  int64  `json:"size"`
	MTime int64  `json:"mtime_ns"`
	Ino   uint64 `json:"ino"`
	Dev   uint64 `json:"dev"`
}

// metaFile is the content of meta.json.
type metaFile struct {
	Version     int       `json:"version"`
	ID          string    `json:"id"`
	Size        int64     `json:"size"`
	PieceLength int64     `json:"piece_length"`
	Pinned      bool      `json:"pinned,omitempty"`
	Import      *importOf `json:"import,omitempty"`
	Meta
}

const (
	metaVersion = 1
	maxMeta     = 64 << 10 // bytes; a URL and a name are far below
)

func (m *metaFile) geometry() blob.Geometry {
	return blob.Geometry{Size: m.Size, PieceLength: m.PieceLength}
}

// parseMeta reads a meta.json and checks everything that others rely on.
func parseMeta(raw []byte) (m metaFile, id blob.ID, err error) {
	if len(raw) > maxMeta {
		return m, id, fmt.Errorf("%w: %d bytes of meta.json, at most %d", blob.ErrInvalid, len(raw), maxMeta)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return m, id, fmt.Errorf("%w: meta.json: %v", blob.ErrInvalid, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return m, id, fmt.Errorf("%w: meta.json: more than one value", blob.ErrInvalid)
	}
	if m.Version != metaVersion {
		return m, id, fmt.Errorf("%w: meta.json of version %d, this program knows %d", blob.ErrInvalid, m.Version, metaVersion)
	}
	if id, err = blob.ParseID(m.ID); err != nil {
		return m, id, fmt.Errorf("meta.json: %w", err)
	}
	if err := m.geometry().Check(); err != nil {
		return m, id, fmt.Errorf("meta.json: %w", err)
	}
	if m.Import != nil && (m.Import.Size != m.Size || !filepath.IsAbs(m.Import.Path)) {
		return m, id, fmt.Errorf("%w: meta.json: import of %q with %d bytes for a blob of %d", blob.ErrInvalid, m.Import.Path, m.Import.Size, m.Size)
	}
	return m, id, nil
}

func encodeMeta(m *metaFile) ([]byte, error) {
	raw, err := json.MarshalIndent(m, "", "\t")
	if err == nil && len(raw) >= maxMeta {
		err = fmt.Errorf("%w: %d bytes of metadata, at most %d", blob.ErrInvalid, len(raw), maxMeta)
	}
	return append(raw, '\n'), err
}

// folderOf is the name of a blob's folder: its id with a character that every file system and shell takes.
func folderOf(id blob.ID) string { return strings.ReplaceAll(id.String(), ":", "-") }

// replaceFile writes name so that after a crash it has either the old or the new content.
func replaceFile(name string, raw []byte) error {
	tmp := name + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(tmp, name)
	}
	if err != nil {
		os.Remove(tmp)
		return err
	}
	return syncDir(filepath.Dir(name))
}

// syncDir makes the names in a folder durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if e := d.Close(); err == nil {
		err = e
	}
	return err
}
