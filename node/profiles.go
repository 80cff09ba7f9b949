package node

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/image/profile"
	"github.com/pantala/pantala/origin/registry"
)

// Profiles keeps in which order images are read when they start, whether or not a node runs: for each image a file
// named after the digest of its manifest, with the profiles of its last starts here. It has no state of its own; of two
// that write about the same image at the same time the last one counts, and a start is forgotten.
type Profiles struct {
	dir string
	// resolve finds the manifest of a reference that no image here had; nil: nobody can be asked.
	resolve func(ctx context.Context, ref string) (blob.Hash, error)
	// imported is told what a command has put, so that others learn of it; it may be nil.
	imported func(image blob.Hash, p *profile.Profile)
}

var _ control.Profiles = (*Profiles)(nil)

// Bounds of what is kept.
const (
	profilesAge = 90 * 24 * time.Hour // as torrents that nobody opens
	maxImages   = 1 << 12             // of 16 starts of 4 KiB: 350 MiB at worst, 80 KiB each
	maxRefs     = 16                  // of one image
	// maxProfileFile bounds what is read back: all starts in base64, and references.
	maxProfileFile = profile.Keep*profile.MaxBytes*4/3 + 64<<10
)

// ProfilesDir is the directory of profiles in a state directory.
func ProfilesDir(state string) string { return filepath.Join(state, "profiles") }

// OpenProfiles are the profiles of a state directory.
func OpenProfiles(state string) *Profiles { return &Profiles{dir: ProfilesDir(state)} }

// kept is the content of a file.
type kept struct {
	Refs   []string `json:"refs"`   // by which the image was started, the last one first
	Starts [][]byte `json:"starts"` // as image/profile writes them, the oldest first
}

const profileExt = ".json"

func (p *Profiles) path(image blob.Hash) string {
	return filepath.Join(p.dir, image.String()+profileExt)
}

// read is what is kept of an image. What cannot be read is not there.
func (p *Profiles) read(image blob.Hash) (k kept, at time.Time, ok bool) {
	f, err := os.Open(p.path(image))
	if err != nil {
		return k, at, false
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || st.Size() > maxProfileFile {
		return k, at, false
	}
	if json.NewDecoder(io.LimitReader(f, maxProfileFile)).Decode(&k) != nil {
		return kept{}, at, false
	}
	k.Starts = slices.DeleteFunc(k.Starts, func(b []byte) bool { _, err := profile.Parse(b); return err != nil })
	return k, st.ModTime(), len(k.Starts) > 0
}

// write replaces what is kept of an image. Nothing is synced: what a power loss leaves cannot be read, and is not there.
func (p *Profiles) write(image blob.Hash, k kept) error {
	k.Starts = k.Starts[max(0, len(k.Starts)-profile.Keep):]
	k.Refs = k.Refs[:min(len(k.Refs), maxRefs)]
	raw, err := json.Marshal(k)
	if err == nil {
		err = os.MkdirAll(p.dir, 0o700)
	}
	if err != nil {
		return control.Local(fmt.Errorf("profiles: %w", err))
	}
	tmp, err := os.CreateTemp(p.dir, "tmp-")
	if err != nil {
		return control.Local(fmt.Errorf("profiles: %w", err))
	}
	_, err = tmp.Write(raw)
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), p.path(image))
	}
	if err != nil {
		os.Remove(tmp.Name())
		return control.Local(fmt.Errorf("profiles: %w", err))
	}
	return nil
}

// get is the merged profile of an image's last starts on this machine.
func (p *Profiles) get(image blob.Hash) (*profile.Profile, bool) {
	k, _, ok := p.read(image)
	if !ok {
		return nil, false
	}
	return k.merged(), true
}

// remove forgets an image.
func (p *Profiles) remove(image blob.Hash) { os.Remove(p.path(image)) }

func (k *kept) merged() *profile.Profile {
	var all []*profile.Profile
	for _, b := range k.Starts {
		if one, err := profile.Parse(b); err == nil {
			all = append(all, one)
		}
	}
	if len(all) == 1 {
		return all[0] // one that was imported knows of how many starts it was made
	}
	return profile.Merge(all...)
}

// add keeps the profile of one more start of an image, which was named ref.
func (p *Profiles) add(image blob.Hash, ref string, one *profile.Profile) error {
	k, _, _ := p.read(image)
	k.name(ref)
	k.Starts = append(k.Starts, one.Append(nil))
	return p.write(image, k)
}

// name notes by which reference the image was named.
func (k *kept) name(ref string) {
	if r, err := registry.Parse(ref); err == nil {
		ref = r.String()
	}
	if ref != "" {
		k.Refs = slices.Insert(slices.DeleteFunc(k.Refs, func(o string) bool { return o == ref }), 0, ref)
	}
}

// images are all images of which a profile is kept, the one that was started last first.
func (p *Profiles) images() ([]blob.Hash, error) {
	entries, err := os.ReadDir(p.dir)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, control.Local(fmt.Errorf("profiles: %w", err))
	}
	type dated struct {
		image blob.Hash
		at    time.Time
	}
	var all []dated
	for _, e := range entries {
		digits, ok := strings.CutSuffix(e.Name(), profileExt)
		image, err := blob.ParseHash(digits)
		if st, e2 := e.Info(); ok && err == nil && e2 == nil {
			all = append(all, dated{image, st.ModTime()})
		}
	}
	slices.SortStableFunc(all, func(a, b dated) int { return b.at.Compare(a.at) })
	images := make([]blob.Hash, len(all))
	for i := range all {
		images[i] = all[i].image
	}
	return images, nil
}

// sweep forgets what was not used for long, what is too much, and what was being written.
func (p *Profiles) sweep() error {
	images, err := p.images()
	if err != nil {
		return err
	}
	var errs []error
	for i, image := range images {
		if st, err := os.Stat(p.path(image)); i >= maxImages || err == nil && time.Since(st.ModTime()) > profilesAge {
			errs = append(errs, os.Remove(p.path(image)))
		}
	}
	tmp, _ := filepath.Glob(filepath.Join(p.dir, "tmp-*"))
	for _, path := range tmp {
		errs = append(errs, os.Remove(path))
	}
	return errors.Join(errs...)
}

// find is the image that a command means by name: a reference that it was started by, or the digest of its manifest,
// or at least four digits of that.
func (p *Profiles) find(name string) (blob.Hash, error) {
	images, err := p.images()
	if err != nil {
		return blob.Hash{}, err
	}
	digits := strings.TrimPrefix(name, "sha256:")
	if _, err := hex.DecodeString(digits[:len(digits)&^1]); err == nil && len(digits) >= shortest {
		var hits []blob.Hash
		for _, image := range images {
			if strings.HasPrefix(image.String(), digits) {
				hits = append(hits, image)
			}
		}
		if len(hits) == 1 {
			return hits[0], nil
		} else if len(hits) > 1 {
			return blob.Hash{}, fmt.Errorf("%w: %s is the beginning of %d images' digests: write more of it", blob.ErrInvalid, name, len(hits))
		}
	}
	if r, err := registry.Parse(name); err == nil {
		for _, image := range images {
			if k, _, ok := p.read(image); ok && slices.Contains(k.Refs, r.String()) || image == r.Digest {
				return image, nil
			}
		}
	}
	return blob.Hash{}, fmt.Errorf("%w: no profile of %s here: start the image once, or import one; pantala profile ls lists what there is", blob.ErrNotFound, name)
}

// described is what a command is told of an image.
func (p *Profiles) described(image blob.Hash) (control.Profile, bool) {
	k, at, ok := p.read(image)
	if !ok {
		return control.Profile{}, false
	}
	m := k.merged()
	c := control.Profile{Image: "sha256:" + image.String(), Refs: k.Refs, Starts: m.Starts, Spans: len(m.Touches), Used: at, Data: m.Append(nil)}
	return c, true
}

// ProfileList implements control.Profiles.
func (p *Profiles) ProfileList(context.Context) ([]control.Profile, error) {
	images, err := p.images()
	all := []control.Profile{}
	for _, image := range images {
		if c, ok := p.described(image); ok {
			c.Data = nil
			all = append(all, c)
		}
	}
	return all, err
}

// ProfileGet implements control.Profiles.
func (p *Profiles) ProfileGet(_ context.Context, name string) (control.Profile, error) {
	image, err := p.find(name)
	if err != nil {
		return control.Profile{}, err
	}
	c, ok := p.described(image)
	if !ok {
		return c, fmt.Errorf("%w: the profile of %s cannot be read: start the image once, or import one", blob.ErrNotFound, name)
	}
	return c, nil
}

// ProfilePut implements control.Profiles.
func (p *Profiles) ProfilePut(ctx context.Context, name string, data []byte) (control.Profile, error) {
	one, err := profile.Parse(data)
	if err != nil {
		return control.Profile{}, err
	}
	image, err := p.named(ctx, name)
	if err != nil {
		return control.Profile{}, err
	}
	k, _, _ := p.read(image)
	if !strings.HasPrefix(image.String(), strings.TrimPrefix(name, "sha256:")) {
		k.name(name)
	}
	k.Starts = [][]byte{data}
	if err := p.write(image, k); err != nil {
		return control.Profile{}, err
	}
	if p.imported != nil {
		p.imported(image, one)
	}
	c, _ := p.described(image)
	return c, nil
}

// named is the image that a profile is imported for, of which nothing may be known here yet.
func (p *Profiles) named(ctx context.Context, name string) (blob.Hash, error) {
	image, missing := p.find(name)
	if missing == nil || !errors.Is(missing, blob.ErrNotFound) {
		return image, missing
	}
	if h, err := blob.ParseHash(strings.TrimPrefix(name, "sha256:")); err == nil {
		return h, nil
	}
	r, err := registry.Parse(name)
	switch {
	case err != nil:
		return blob.Hash{}, err
	case p.resolve != nil:
		return p.resolve(ctx, name)
	case !r.Digest.IsZero():
		return r.Digest, nil
	}
	return blob.Hash{}, fmt.Errorf("%w: which image %s is only a registry can say: start the daemon first, or name the image by the digest of its manifest", blob.ErrNotFound, name)
}

// ProfileList implements control.Profiles.
func (n *Node) ProfileList(ctx context.Context) ([]control.Profile, error) {
	return n.profiles.ProfileList(ctx)
}

// ProfileGet implements control.Profiles.
func (n *Node) ProfileGet(ctx context.Context, image string) (control.Profile, error) {
	return n.profiles.ProfileGet(ctx, image)
}

// ProfilePut implements control.Profiles. A node can ask registries which image is meant, and tells trackers.
func (n *Node) ProfilePut(ctx context.Context, image string, data []byte) (control.Profile, error) {
	s, err := n.imageDoor()
	if err != nil {
		return control.Profile{}, err
	}
	p := Profiles{dir: n.profiles.dir, imported: s.reportProfile}
	p.resolve = func(ctx context.Context, ref string) (blob.Hash, error) {
		img, _, err := s.resolve(ctx, ref, "", control.Options{})
		if err != nil {
			return blob.Hash{}, err
		}
		return img.Manifest, nil
	}
	return p.ProfilePut(ctx, image, data)
}
