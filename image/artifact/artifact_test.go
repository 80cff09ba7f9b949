package artifact

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pantala/pantala/blob"
)

func TestManifest(t *testing.T) {
	image := blob.Hash{9}
	want := []Index{
		{Layer: blob.Hash{1}, Digest: blob.Hash{2}, Root: blob.Hash{3}, Size: 77, Signature: "c2ln"},
		{Layer: blob.Hash{4}, Digest: blob.Hash{5}, Root: blob.Hash{6}, Size: 1},
	}
	text, err := Manifest(Subject{"application/x", image, 5}, want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(text, image)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	for from, to := range map[string]string{
		`"artifactType":"` + Type: `"artifactType":"x`, `"size":77`: `"size":-1`, layerKey: "other", rootKey: "else",
		digest(image): digest(blob.Hash{8}), digest(blob.Hash{5}): "sha256:05", `"layers":[`: `"layers":[[`,
	} {
		bad := strings.Replace(string(text), from, to, 1)
		if bad == string(text) {
			t.Fatalf("%s is not in %s", from, text)
		}
		if _, err := Parse([]byte(bad), image); !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("%s for %s: %v", to, from, err)
		}
	}
}

func TestSignature(t *testing.T) {
	private, public, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	key, err := ParsePrivate(private)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := ParsePublic(public)
	if err != nil {
		t.Fatal(err)
	}
	other, _, _ := ed25519.GenerateKey(nil)
	s := Statement{blob.Hash{1}, blob.Hash{2}, 3, blob.Hash{4}, blob.Hash{5}}
	sig := s.Sign(key)
	if !(Keys{other, pub}).Verify(s, sig) {
		t.Error("a good signature is refused")
	}
	if (Keys{other}).Verify(s, sig) || (Keys{}).Verify(s, sig) {
		t.Error("another key's signature is taken")
	}
	for i, bad := range []Statement{
		{blob.Hash{9}, s.Layer, 3, s.Root, s.Index}, {s.Manifest, blob.Hash{9}, 3, s.Root, s.Index},
		{s.Manifest, s.Layer, 4, s.Root, s.Index}, {s.Manifest, s.Layer, 3, blob.Hash{9}, s.Index}, {s.Manifest, s.Layer, 3, s.Root, blob.Hash{9}},
	} {
		if (Keys{pub}).Verify(bad, sig) {
			t.Errorf("statement %d is taken for another", i)
		}
	}
	for _, bad := range []string{"", "x", sig[:len(sig)-4], sig + "AAAA", strings.ToLower(sig)} {
		if (Keys{pub}).Verify(s, bad) {
			t.Errorf("signature %q", bad)
		}
	}
	for _, bad := range [][]byte{nil, public, []byte("x"), bytes.Replace(private, []byte("MC"), []byte("MD"), 1)} {
		if _, err := ParsePrivate(bad); !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("private %q: %v", bad, err)
		}
	}
	for _, bad := range [][]byte{nil, private, []byte("x"), bytes.Replace(public, []byte("MC"), []byte("MD"), 1)} {
		if _, err := ParsePublic(bad); !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("public %q: %v", bad, err)
		}
	}
}

// TestOpenSSL: the keys of openssl are ours, where there is one.
func TestOpenSSL(t *testing.T) {
	out, err := exec.Command("openssl", "genpkey", "-algorithm", "ed25519").Output()
	if errors.Is(err, exec.ErrNotFound) {
		t.Skip("no openssl, which nothing else needs")
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParsePrivate(out); err != nil {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	image := blob.Hash{9}
	text, _ := Manifest(Subject{"x", image, 5}, []Index{{Layer: blob.Hash{1}, Digest: blob.Hash{2}, Root: blob.Hash{3}, Size: 77, Signature: "c2ln"}})
	f.Add(text)
	f.Fuzz(func(t *testing.T, b []byte) {
		all, err := Parse(b, image)
		if err != nil {
			if !errors.Is(err, blob.ErrInvalid) {
				t.Fatalf("class of %v", err)
			}
			return
		}
		for _, x := range all {
			if x.Size <= 0 {
				t.Fatalf("%+v", x)
			}
			(Keys{}).Verify(Statement{}, x.Signature)
		}
	})
}
