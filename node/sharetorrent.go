package node

import (
	"context"
	"crypto/sha1"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/blockio"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/metainfo"
)

// layers are the piece roots of a file, by its root, as a .torrent has them.
func (s sums) layers(g blob.Geometry) map[blob.Hash][]blob.Hash {
	if g.Pieces() < 2 {
		return nil
	}
	layer := make([]blob.Hash, g.Pieces())
	for p := range layer {
		r := g.PieceBlocks(uint32(p))
		layer[p] = g.PieceRoot(s.leaves[r.First:r.End()])
	}
	return map[blob.Hash][]blob.Hash{s.root(g): layer}
}

// describe fills in what stands around the info dictionary of a torrent that is made here.
func (n *Node) describe(m *metainfo.MetaInfo, trackers, webSeeds []string) {
	for _, t := range trackers {
		m.Announce = append(m.Announce, []string{t})
	}
	m.WebSeeds, m.CreatedBy, m.Created = webSeeds, "pantala/"+n.opts.Version, time.Now().Truncate(time.Second)
}

// shareMade makes a torrent of a file or directory, and shares it in place.
func (n *Node) shareMade(ctx context.Context, r control.ShareRequest, path string, want blob.Hash, progress func(control.Progress)) (reply control.ShareReply, err error) {
	o := metainfo.MakeOptions{
		PieceLength: r.PieceLength, Private: r.Private, Digest: true,
		Progress: func(done, total int64) {
			progress(control.Progress{What: "hashing", Done: done, Total: total})
		},
	}
	switch r.Version {
	case "", "v2":
		o.V2 = true
	case "v1":
		o.V1 = true
	case "hybrid":
		o.V1, o.V2 = true, true
	default:
		return reply, fmt.Errorf("%w: torrent version %q: v1, v2 or hybrid", blob.ErrInvalid, r.Version)
	}
	made, err := metainfo.Make(ctx, path, o)
	if err != nil {
		return reply, fmt.Errorf("share: %w", err)
	}
	if want != (blob.Hash{}) && want != made.Digest {
		return reply, wrongDigest(path, made.Digest, want)
	}
	n.describe(made.MetaInfo, n.trackersOf(r.Options, found{}), r.WebSeeds)
	reply, err = n.shareLocal(ctx, r, foundParts(made.MetaInfo), made.Local, path, true)
	if err != nil {
		return reply, err
	}
	if made.Info.Single {
		reply.Digest = "sha256:" + made.Digest.String()
	}
	reply.Warnings = append(made.Warnings, reply.Warnings...)
	return reply, nil
}

// shareFrom shares the files of somebody else's torrent from where they are on this machine.
func (n *Node) shareFrom(ctx context.Context, r control.ShareRequest, want blob.Hash) (reply control.ShareReply, err error) {
	path := filepath.Clean(r.From)
	if err := notOnOurs(path); err != nil {
		return reply, err
	}
	if want != (blob.Hash{}) {
		return reply, fmt.Errorf("%w: the torrent's own hashes are checked: leave out --digest", blob.ErrInvalid)
	}
	f, err := n.find(ctx, r.URL, r.Options, func(int64) {})
	if err != nil {
		return reply, err
	}
	defer f.discard()
	if f.torrent == nil && f.digest.IsZero() {
		return reply, fmt.Errorf("%w: %s is no torrent: --from says where the files of one are", blob.ErrInvalid, redact(r.URL))
	}
	if f.torrent == nil { // the torrent that is made of any file
		r.Path, r.URL, r.From, r.Digest = path, "", "", "sha256:"+f.digest.String()
		return n.sharePath(ctx, r, func(control.Progress) {})
	}
	local, err := locate(f.torrent.Info, path)
	if err != nil {
		return reply, err
	}
	if info := f.torrent.Info; !info.HasV2 {
		if err := checkSums(ctx, info, local); err != nil {
			return reply, err
		}
	}
	return n.shareLocal(ctx, r, f, local, path, false)
}

// locate finds the files of a torrent at path, or below a directory of the torrent's name in it.
func locate(i *metainfo.Info, path string) ([]metainfo.Local, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, control.Local(fmt.Errorf("share: %w", err))
	}
	root := path
	if inside := filepath.Join(path, i.Name); st.IsDir() {
		if _, err := os.Stat(inside); err == nil {
			root = inside
		}
	}
	local := make([]metainfo.Local, len(i.Files))
	for k := range i.Files {
		f := &i.Files[k]
		local[k].Path = root
		if !i.Single {
			local[k].Path = filepath.Join(append([]string{root}, f.Path...)...)
		}
		if f.Symlink != nil {
			continue
		}
		st, err := os.Stat(local[k].Path)
		if err != nil {
			return nil, control.Local(fmt.Errorf("share: a file of the torrent is missing: %w", err))
		}
		if !st.Mode().IsRegular() || st.Size() != f.Length {
			return nil, fmt.Errorf("%w: %s has %d bytes, the torrent's file %d: it is another one", blob.ErrCorrupt, local[k].Path, st.Size(), f.Length)
		}
	}
	return local, nil
}

// spaceReader reads the piece space of a v1 torrent from its files; what is no file is zero.
func spaceReader(i *metainfo.Info, local []metainfo.Local) io.Reader {
	var all []io.Reader
	at := int64(0)
	for k := range i.Files {
		f := &i.Files[k]
		if f.Length == 0 {
			continue
		}
		all = append(all, io.LimitReader(zero{}, f.Offset-at), &lazyFile{path: local[k].Path, left: f.Length})
		at = f.Offset + f.Length
	}
	return io.MultiReader(append(all, io.LimitReader(zero{}, i.Length-at))...)
}

// zero is a stream of zeros.
type zero struct{}

func (zero) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// lazyFile is a file that is open from the first to the last Read.
type lazyFile struct {
	path string
	left int64
	f    *os.File
}

func (l *lazyFile) Read(p []byte) (n int, err error) {
	if l.left == 0 {
		return 0, io.EOF
	}
	if l.f == nil {
		if l.f, err = os.Open(l.path); err != nil {
			return 0, err
		}
	}
	n, err = l.f.Read(p[:min(int64(len(p)), l.left)])
	l.left -= int64(n)
	if l.left == 0 || err != nil {
		l.f.Close()
	}
	if err == io.EOF {
		err = fmt.Errorf("%w: %s became shorter while it was read", blob.ErrChanged, l.path)
	}
	return n, err
}

// checkSums compares files with the SHA-1 sums of a v1 torrent.
func checkSums(ctx context.Context, i *metainfo.Info, local []metainfo.Local) error {
	r, buf := spaceReader(i, local), make([]byte, min(i.PieceLength, max(i.Length, 1)))
	for p, want := range i.Pieces {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := io.ReadFull(r, buf)
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			return control.Local(fmt.Errorf("share: %w", err))
		}
		if sha1.Sum(buf[:n]) != want {
			return fmt.Errorf("%w: piece %d of the torrent is another one in the files: they are of another version, or damaged", blob.ErrCorrupt, p)
		}
	}
	return nil
}

// shareLocal opens a torrent whose files are here, and shares it. built: its hashes were computed from these files,
// else those of v2 are checked now.
func (n *Node) shareLocal(ctx context.Context, r control.ShareRequest, f found, local []metainfo.Local, path string, built bool) (reply control.ShareReply, err error) {
	if err := f.check(); err != nil {
		return reply, err
	}
	m := f.torrent
	if !built {
		f.trackers = m.Trackers()
	} else {
		f.trackers = nil // they are the request's
	}
	w, err := n.want(f.meta.Source, r.Options, f)
	if err != nil {
		return reply, err
	}
	parts := partsOf(m.Info)
	w.importPart = func(i int, one found) (*blockio.Blob, error) {
		if !m.Info.HasV2 && !m.Info.Single {
			return n.copyIn(m.Info, local, one)
		}
		at := local[parts[i].file]
		b, err := n.store.Import(at.Path, one.id, one.geometry, one.meta, at.Leaves)
		if err != nil || built || !m.Info.HasV2 {
			return b, err
		}
		if root, ok := rootOf(b); !ok || root != parts[i].root {
			b.Close()
			return nil, errors.Join(fmt.Errorf("%w: %s is not the torrent's %s: it is of another version, or damaged", blob.ErrCorrupt, at.Path, parts[i].name), n.store.Remove(one.id))
		}
		return b, nil
	}
	l, warnings, err := n.hold(ctx, f, w)
	if err != nil {
		return reply, err
	}
	if !l.complete() {
		n.release(l)
		return reply, fmt.Errorf("%w: some of it is mounted and not complete: unmount it first", blob.ErrInvalid)
	}
	n.shelve(m, "")
	reply = n.replyTorrent(l, r)
	reply.Warnings = append(reply.Warnings, warnings...)
	n.keep(l, &share{live: l, source: path, magnet: reply.Magnet})
	n.log.Info("sharing", "path", path, "torrent", l.id, "size", l.size(), "files", len(m.Info.Files))
	return reply, nil
}

// copyIn puts the files of a v1 torrent into the cache, one after the other as its pieces want them.
func (n *Node) copyIn(i *metainfo.Info, local []metainfo.Local, one found) (*blockio.Blob, error) {
	b, err := n.store.Open(one.id, one.geometry, one.meta)
	if err != nil || b.Complete() {
		return b, err
	}
	r, buf := spaceReader(i, local), make([]byte, blob.MaxBuffer*blob.BlockSize)
	for at := uint32(0); at < one.geometry.Blocks() && err == nil; at += blob.MaxBuffer {
		run := blob.Run{First: at, Count: min(blob.MaxBuffer, one.geometry.Blocks()-at)}
		_, size := one.geometry.Bytes(run)
		if _, err = io.ReadFull(r, buf[:size]); err == nil {
			err = b.Put(run, buf[:size], blob.Direct)
		}
	}
	if err != nil {
		b.Close()
		return nil, fmt.Errorf("the files of a v1 torrent are copied into the cache: %w", err)
	}
	return b, nil
}

// replyTorrent says under which names others find a torrent.
func (n *Node) replyTorrent(l *live, r control.ShareRequest) (reply control.ShareReply) {
	m := l.torrent
	link := metainfo.Magnet{
		V1: m.Info.InfoHashV1, V2: m.Info.InfoHashV2, Name: m.Info.Name, Size: l.size(),
		Trackers: m.Trackers(), WebSeeds: m.WebSeeds, Peers: n.peerParameter(),
	}
	for _, t := range n.trackersOf(r.Options, found{}) {
		link.Trackers = appendNew(link.Trackers, t)
	}
	reply = control.ShareReply{ID: l.id.String(), Name: l.meta.Name, Size: l.size(), Files: l.files(), Magnet: link.String(), Source: link.String()}
	if m.Info.HasV2 {
		reply.InfoHash = m.Info.InfoHashV2.String()
	}
	if m.Info.HasV1 {
		reply.InfoHashV1 = fmt.Sprintf("%x", m.Info.InfoHashV1)
	}
	if r.WantTorrent {
		reply.Torrent = m.Append(nil)
	}
	if m.Info.Private && m.Announce == nil {
		reply.Warnings = append(reply.Warnings, "a private torrent without a tracker: nobody can find it: name one with --tracker")
	}
	if m.Info.Private {
		reply.Warnings = append(reply.Warnings, "a private torrent: others need its .torrent (--torrent FILE), peers do not give it to who has the link only")
	}
	return reply
}

// shareTorrent completes a torrent and keeps it for others.
func (n *Node) shareTorrent(ctx context.Context, r control.ShareRequest, d *Download, want blob.Hash, progress func(control.Progress)) (reply control.ShareReply, err error) {
	switch {
	case !r.NoWait:
		err = d.Wait(ctx, want, func(t control.Transfer) {
			progress(control.Progress{What: "downloading", Done: t.Present, Total: t.Size, FromPeers: t.FromPeers})
		})
	case want != (blob.Hash{}):
		err = fmt.Errorf("%w: --digest needs all bytes: leave out --no-wait", blob.ErrInvalid)
	}
	if err != nil {
		d.Close()
		return reply, err
	}
	l := d.top
	reply = n.replyTorrent(l, r)
	reply.Warnings = append(reply.Warnings, d.Warnings...)
	s := &share{live: l, source: redact(r.URL), magnet: reply.Magnet}
	n.keep(l, s)
	n.log.Info("sharing", "source", s.source, "torrent", l.id, "size", l.size())
	return reply, nil
}

// appendNew appends what is not there yet.
func appendNew(all []string, s string) []string {
	if slices.Contains(all, s) {
		return all
	}
	return append(all, s)
}
