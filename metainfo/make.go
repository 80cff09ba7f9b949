package metainfo

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/pantala/pantala/bencode"
	"github.com/pantala/pantala/blob"
)

// MakeOptions say what [Make] makes.
type MakeOptions struct {
	V1, V2      bool   // which versions; both: a hybrid
	PieceLength int64  // bytes, a power of two; 0: blob.PieceLengthFor the sum of all lengths
	Name        string // "": the last name of the path
	Private     bool   // BEP 27
	Digest      bool   // compute the SHA-256 of all bytes, if it is a single file
	// Progress is called with the bytes that have been read and those that there are. May be nil.
	Progress func(done, total int64)
}

// Made is a torrent of files on this machine.
type Made struct {
	*MetaInfo
	Local    []Local   // as Info.Files
	Digest   blob.Hash // see MakeOptions.Digest
	Warnings []string
}

// Local is a file on this machine.
type Local struct {
	Path   string
	Leaves []blob.Hash // hashes of its blocks, 2 MiB per GiB; nil without v2
}

// maxMade is the longest piece that Make makes: longer ones are held in memory by each goroutine that hashes.
const maxMade = 16 << 20

// Make reads a file, or all files of a directory, and describes them. It reads each byte once. Symbolic links become
// links of the torrent if they lead to something in it, and are refused otherwise, as is what is neither a file nor a
// directory.
func Make(ctx context.Context, path string, o MakeOptions) (*Made, error) {
	p, err := newPlan(path, o)
	if err != nil {
		return nil, err
	}
	if err := p.hash(ctx); err != nil {
		return nil, err
	}
	made := &Made{MetaInfo: &MetaInfo{Layers: map[blob.Hash][]blob.Hash{}}, Digest: p.digest, Warnings: p.warnings}
	roots := make([]blob.Hash, len(p.files))
	for i := range p.files {
		f := &p.files[i]
		if o.V2 && f.length > 0 {
			g := blob.Geometry{Size: f.length, PieceLength: p.pieceLength}
			roots[i] = g.RootOfLeaves(f.leaves)
			if g.Pieces() > 1 {
				layer := make([]blob.Hash, g.Pieces())
				for n := range layer {
					r := g.PieceBlocks(uint32(n))
					layer[n] = g.PieceRoot(f.leaves[r.First:r.End()])
				}
				made.Layers[roots[i]] = layer
			}
		}
		made.Local = append(made.Local, Local{f.local, f.leaves})
	}
	if made.Info, err = ParseInfo(p.info(roots)); err != nil {
		return nil, fmt.Errorf("%s cannot be a torrent: %w", path, err)
	}
	return made, nil
}

// plan is a torrent in the making.
type plan struct {
	MakeOptions
	name        string
	single      bool
	pieceLength int64
	files       []planned
	total       int64 // bytes of all files
	sums        [][20]byte
	digest      blob.Hash
	warnings    []string
}

type planned struct {
	local      string
	path       []string
	length     int64
	modTime    int64 // nanoseconds
	executable bool
	symlink    []string
	leaves     []blob.Hash
}

func newPlan(path string, o MakeOptions) (*plan, error) {
	p := &plan{MakeOptions: o, name: o.Name}
	if p.name == "" {
		p.name = filepath.Base(path)
	}
	if safe, err := safeName(p.name); err != nil || safe != p.name {
		return nil, fmt.Errorf("%w: %q cannot be the name of a torrent: give it another one", blob.ErrInvalid, p.name)
	}
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	switch {
	case st.Mode().IsRegular():
		p.single = true
		err = p.add(path, []string{p.name}, st)
	case st.IsDir():
		err = p.collect(path)
	default:
		err = fmt.Errorf("%w: %s is neither a file nor a directory", blob.ErrInvalid, path)
	}
	if err != nil {
		return nil, err
	}
	if len(p.files) == 0 {
		return nil, fmt.Errorf("%w: %s has no files", blob.ErrInvalid, path)
	}
	if p.pieceLength = o.PieceLength; p.pieceLength == 0 {
		p.pieceLength = blob.PieceLengthFor(p.total)
	}
	if n := p.pieceLength; n < blob.BlockSize || n > maxMade || n&(n-1) != 0 {
		return nil, fmt.Errorf("%w: a piece length of %d bytes: it must be a power of two from 16 KiB to 16 MiB", blob.ErrInvalid, n)
	}
	return p, nil
}

// collect finds the files of a directory in the order of a file tree: names of a directory are sorted by their
// bytes, and so are the keys of bencoding.
func (p *plan) collect(root string) error {
	full := map[string]bool{} // directories that have something
	var dirs []string
	err := filepath.WalkDir(root, func(at string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if at == root {
			return nil
		}
		full[filepath.Dir(at)] = true
		if e.IsDir() {
			dirs = append(dirs, at)
			return nil
		}
		rel, err := filepath.Rel(root, at)
		if err != nil {
			return err
		}
		st, err := e.Info()
		if err != nil {
			return err
		}
		names := strings.Split(rel, string(filepath.Separator))
		switch {
		case st.Mode().IsRegular():
			return p.add(at, names, st)
		case st.Mode()&fs.ModeSymlink != 0:
			return p.link(root, at, names, st)
		}
		return fmt.Errorf("%w: %s is neither a file, nor a directory, nor a symbolic link: remove it, or share the files one by one", blob.ErrInvalid, at)
	})
	for _, d := range dirs {
		if !full[d] {
			p.warnings = append(p.warnings, fmt.Sprintf("%s is empty: a torrent cannot say so, it is left out", d))
		}
	}
	return err
}

// add takes a file in.
func (p *plan) add(at string, names []string, st fs.FileInfo) error {
	if len(p.files) == MaxFiles {
		return fmt.Errorf("%w: more than %d files", blob.ErrInvalid, MaxFiles)
	}
	for _, s := range names {
		if !utf8.ValidString(s) {
			return fmt.Errorf("%w: the name of %q is not UTF-8: rename it", blob.ErrInvalid, at)
		}
	}
	f := planned{local: at, path: names, length: st.Size(), modTime: st.ModTime().UnixNano(), executable: st.Mode()&0o111 != 0}
	if st.Mode()&fs.ModeSymlink != 0 {
		f.length, f.executable = 0, false
	}
	p.total += f.length
	p.files = append(p.files, f)
	return nil
}

// link takes a symbolic link in.
func (p *plan) link(root, at string, names []string, st fs.FileInfo) error {
	to, err := os.Readlink(at)
	if err != nil {
		return err
	}
	rel, err := filepath.Rel(root, filepath.Join(filepath.Dir(at), to))
	if err != nil || filepath.IsAbs(to) || !filepath.IsLocal(rel) || rel == "." {
		return fmt.Errorf("%w: the symbolic link %s leads to %s, out of the directory: remove it, or copy there what it leads to", blob.ErrInvalid, at, to)
	}
	if err := p.add(at, names, st); err != nil {
		return err
	}
	p.files[len(p.files)-1].symlink = strings.Split(rel, string(filepath.Separator))
	return nil
}

// info is the info dictionary.
func (p *plan) info(roots []blob.Hash) []byte {
	b := []byte{'d'}
	if p.V2 {
		b = bencode.AppendString(b, "file tree")
		all := make([]int, len(p.files))
		for i := range all {
			all[i] = i
		}
		b = p.tree(b, all, 0, roots)
	}
	if p.V1 && !p.single {
		b = append(bencode.AppendString(b, "files"), 'l')
		for i := range p.files {
			f := &p.files[i]
			b = append(p.attributes(append(b, 'd'), f), "6:length"...)
			b = bencode.AppendInt(b, f.length)
			b = appendList(bencode.AppendString(b, "path"), f.path)
			b = append(f.appendLink(b), 'e')
			if n := p.padAfter(i); n > 0 {
				b = fmt.Appendf(b, "d4:attr1:p6:lengthi%de4:pathl4:.pad", n)
				b = append(bencode.AppendString(b, fmt.Sprint(n)), "ee"...)
			}
		}
		b = append(b, 'e')
	}
	if p.V1 && p.single {
		b = bencode.AppendInt(bencode.AppendString(b, "length"), p.files[0].length)
	}
	if p.V2 {
		b = bencode.AppendInt(bencode.AppendString(b, "meta version"), 2)
	}
	b = bencode.AppendString(bencode.AppendString(b, "name"), p.name)
	b = bencode.AppendInt(bencode.AppendString(b, "piece length"), p.pieceLength)
	if p.V1 {
		row := make([]byte, 0, 20*len(p.sums))
		for i := range p.sums {
			row = append(row, p.sums[i][:]...)
		}
		b = bencode.AppendString(bencode.AppendString(b, "pieces"), row)
	}
	if p.Private {
		b = bencode.AppendInt(bencode.AppendString(b, "private"), 1)
	}
	return append(b, 'e')
}

// tree writes the files, which share the first depth names of their paths, as a directory.
func (p *plan) tree(b []byte, files []int, depth int, roots []blob.Hash) []byte {
	b = append(b, 'd')
	for len(files) > 0 {
		f := &p.files[files[0]]
		name := f.path[depth]
		b = bencode.AppendString(b, name)
		if len(f.path) == depth+1 {
			b = p.attributes(append(b, "d0:d"...), f)
			b = bencode.AppendInt(bencode.AppendString(b, "length"), f.length)
			if f.length > 0 {
				b = bencode.AppendString(bencode.AppendString(b, "pieces root"), roots[files[0]][:])
			}
			b = append(f.appendLink(b), "ee"...)
			files = files[1:]
			continue
		}
		n := 1
		for n < len(files) && p.files[files[n]].path[depth] == name {
			n++
		}
		b = p.tree(b, files[:n], depth+1, roots)
		files = files[n:]
	}
	return append(b, 'e')
}

// attributes writes those of BEP 47.
func (p *plan) attributes(b []byte, f *planned) []byte {
	switch {
	case f.symlink != nil:
		return bencode.AppendText(b, "attr", "l")
	case f.executable:
		return bencode.AppendText(b, "attr", "x")
	}
	return b
}

func (f *planned) appendLink(b []byte) []byte {
	if f.symlink == nil {
		return b
	}
	return appendList(bencode.AppendString(b, "symlink path"), f.symlink)
}

// padAfter is how long the pad after a file of a hybrid is, so that the next one that has bytes begins at a piece
// boundary.
func (p *plan) padAfter(i int) int64 {
	rest := p.files[i].length % p.pieceLength
	if !p.V2 || rest == 0 {
		return 0
	}
	for _, f := range p.files[i+1:] {
		if f.length > 0 {
			return p.pieceLength - rest
		}
	}
	return 0
}
