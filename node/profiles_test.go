package node

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/image/profile"
)

func started(touches ...profile.Touch) *profile.Profile {
	return &profile.Profile{Starts: 1, Touches: touches}
}

// TestProfilesOfStarts: what starts of an image have read is kept, merged, and found by every name; of many the last
// ones count.
func TestProfilesOfStarts(t *testing.T) {
	p, ctx := OpenProfiles(t.TempDir()), context.Background()
	image, other := blob.Hash{0xab, 0xcd, 1}, blob.Hash{0xab, 0xcd, 2}
	if _, ok := p.get(image); ok {
		t.Error("a profile of nothing")
	}
	for i := range 40 {
		if err := p.add(image, "app:1", started(profile.Touch{Layer: 1, Span: 5}, profile.Touch{Layer: 0, Span: uint32(i)})); err != nil {
			t.Fatal(err)
		}
	}
	if m, ok := p.get(image); !ok || m.Starts != profile.Keep || !slices.Equal(m.Touches, []profile.Touch{{Layer: 1, Span: 5}}) {
		t.Errorf("%v, %v", m, ok)
	}
	if err := p.add(image, "oci://registry.example:5000/app:2", started()); err != nil {
		t.Fatal(err)
	}
	if err := p.add(other, "other", started(profile.Touch{Layer: 1})); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]blob.Hash{
		"app:1": image, "docker.io/library/app:1": image, "oci://registry.example:5000/app:2": image, "app@sha256:" + image.String(): image,
		"sha256:" + image.String(): image, image.String(): image, image.String()[:6]: image, "other": other, "sha256:" + other.String()[:6]: other,
	} {
		c, err := p.ProfileGet(ctx, name)
		if err != nil || c.Image != "sha256:"+want.String() {
			t.Errorf("%s is %s, %v", name, c.Image, err)
		}
		if of, err := profile.Parse(c.Data); err != nil || len(of.Touches) != c.Spans || of.Starts != c.Starts {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
	}
	if _, err := p.ProfileGet(ctx, "abcd"); !errors.Is(err, blob.ErrInvalid) {
		t.Errorf("the beginning of two: %v", err)
	}
	for _, name := range []string{"app:3", "abc", "", "cafe", "sha256:" + (blob.Hash{}).String(), "../x", "A/b"} {
		if _, err := p.ProfileGet(ctx, name); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("%q: %v", name, err)
		}
	}
	all, err := p.ProfileList(ctx)
	if err != nil || len(all) != 2 || all[0].Data != nil || !slices.Contains(all[1].Refs, "registry.example:5000/app:2") && !slices.Contains(all[0].Refs, "registry.example:5000/app:2") {
		t.Errorf("%+v, %v", all, err)
	}
}

// TestImportedProfile: what is imported takes the place of what was recorded, is merged with what comes later, and
// others are told; who may say which image a name means is asked.
func TestImportedProfile(t *testing.T) {
	p, ctx := OpenProfiles(t.TempDir()), context.Background()
	image := blob.Hash{0xcc, 1}
	data := (&profile.Profile{Starts: 9, Touches: []profile.Touch{{Layer: 3, Span: 3}}}).Append(nil)
	if _, err := p.ProfilePut(ctx, "app", data); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("nobody knows which image that is: %v", err)
	}
	if _, err := p.ProfilePut(ctx, "app", data[:5]); !errors.Is(err, blob.ErrInvalid) {
		t.Errorf("no profile: %v", err)
	}
	if err := p.add(image, "old", started(profile.Touch{Layer: 1})); err != nil {
		t.Fatal(err)
	}
	var told []blob.Hash
	p.resolve = func(_ context.Context, ref string) (blob.Hash, error) {
		if ref != "app" {
			return blob.Hash{}, blob.ErrDenied
		}
		return image, nil
	}
	p.imported = func(i blob.Hash, of *profile.Profile) {
		if told = append(told, i); of.Starts != 9 {
			t.Errorf("told of %v", of)
		}
	}
	c, err := p.ProfilePut(ctx, "app", data)
	if err != nil || c.Starts != 9 || c.Spans != 1 || !slices.Equal(told, []blob.Hash{image}) || !slices.Equal(c.Refs, []string{"docker.io/library/app:latest", "docker.io/library/old:latest"}) {
		t.Errorf("%+v, %v; told %v", c, err, told)
	}
	if _, err := p.ProfilePut(ctx, "secret", data); !errors.Is(err, blob.ErrDenied) {
		t.Error(err)
	}
	if err := p.add(image, "app", started(profile.Touch{Layer: 4, Span: 4})); err != nil {
		t.Fatal(err)
	}
	if m, _ := p.get(image); m.Starts != 2 || len(m.Touches) != 2 {
		t.Errorf("%v", m)
	}
	if c, err := p.ProfilePut(ctx, "sha256:"+(blob.Hash{7}).String(), data); err != nil || len(c.Refs) != 0 {
		t.Errorf("%+v, %v", c, err)
	}
}

// TestProfilesOnDisk: what is damaged is not there, and what is old is removed.
func TestProfilesOnDisk(t *testing.T) {
	dir := t.TempDir()
	p := OpenProfiles(dir)
	good, bad, old := blob.Hash{1}, blob.Hash{2}, blob.Hash{3}
	for _, h := range []blob.Hash{good, old} {
		if err := p.add(h, "", started(profile.Touch{})); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range map[string]string{p.path(bad): `{"starts":["cHRwAQ=="]}`, filepath.Join(p.dir, "tmp-1"): "", filepath.Join(p.dir, "else"): ""} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	past := time.Now().Add(-profilesAge - time.Hour)
	if err := os.Chtimes(p.path(old), past, past); err != nil {
		t.Fatal(err)
	}
	if _, ok := p.get(bad); ok {
		t.Error("a damaged profile is there")
	}
	if all, err := p.ProfileList(context.Background()); err != nil || len(all) != 2 {
		t.Errorf("%v, %v", all, err)
	}
	if err := p.sweep(); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(p.dir)
	if err != nil || len(left) != 3 {
		t.Errorf("%v, %v", left, err)
	}
	if err := os.WriteFile(p.path(good), make([]byte, maxProfileFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, ok := p.get(good); ok {
		t.Error("a file without end is read")
	}
}
