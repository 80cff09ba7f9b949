package registry_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/origin/registry"
	"github.com/pantala/pantala/origin/registry/registrytest"
)

const indexType = "application/vnd.example.index.v1"

// TestReferrers: artefacts that refer to an image, at a registry that lists them and at one, the real one, that does
// not know of such lists.
func TestReferrers(t *testing.T) {
	tokens := registrytest.NewTokens(t)
	for name, host := range map[string]string{
		"list": registrytest.New(t, registrytest.Script{Referrers: true, Tokens: tokens}).Host(),
		"tag":  registrytest.Start(t, registrytest.Config{}).Host,
	} {
		t.Run(name, func(t *testing.T) {
			c := client(t, registry.Options{})
			im := sample(80)
			ref := parse(t, host+"/team/app:v1")
			push(t, c, ref.String(), im)
			got := resolve(t, c, ref.String())
			ctx := within(t, time.Minute)
			if all, err := c.Referrers(ctx, ref, got.Manifest, ""); err != nil || len(all) != 0 {
				t.Fatal(all, err)
			}
			payload := []byte("the index of a layer")
			empty := []byte("{}")
			for _, p := range [][]byte{payload, empty} {
				for range 2 { // the second time it is there
					if _, err := c.PushBlob(ctx, ref, bytes.NewReader(p), int64(len(p))); err != nil {
						t.Fatal(err)
					}
				}
			}
			want := map[string]bool{}
			for i, kind := range []string{indexType, "application/vnd.example.signature", indexType} {
				text := registrytest.JSON(map[string]any{
					"schemaVersion": 2, "mediaType": registrytest.Manifest, "artifactType": kind,
					"config":      registrytest.Of("application/vnd.oci.empty.v1+json", empty),
					"layers":      []any{registrytest.Of("application/octet-stream", payload)},
					"subject":     registrytest.Of(im.Type, im.Manifest),
					"annotations": map[string]string{"n": fmt.Sprint(i)},
				})
				for range 2 {
					h, err := c.PushManifest(ctx, ref.At(blob.Hash{}), registrytest.Manifest, text)
					if err != nil {
						t.Fatal(err)
					}
					if kind == indexType {
						want[h.String()] = true
					}
				}
			}
			found, err := c.Referrers(ctx, ref, got.Manifest, indexType)
			if err != nil || len(found) != 2 {
				t.Fatal(found, err)
			}
			for _, r := range found {
				if !want[r.Digest.String()] || r.ArtifactType != indexType {
					t.Errorf("%+v", r)
				}
				a, err := c.Artifact(ctx, ref.At(r.Digest))
				if err != nil || a.ArtifactType != indexType || len(a.Layers) != 1 || a.Annotations["n"] == "" || a.Digest != r.Digest {
					t.Fatalf("%+v, %v", a, err)
				}
				fetchLayer(t, c.Layer(ctx, ref, a.Layers[0]), payload)
			}
			if all, err := c.Referrers(ctx, ref, got.Manifest, ""); err != nil || len(all) != 3 {
				t.Error(all, err)
			}
			// The artefact is none that could be mounted, and says so.
			_, err = c.Resolve(ctx, ref.At(found[0].Digest), amd64)
			checkError(t, err, blob.ErrInvalid, indexType)
			if _, err := c.Artifact(ctx, ref.At(blob.Hash{1})); err == nil {
				t.Error("an artefact of nothing")
			}
		})
	}
}

// TestPushRefused: a push without credentials, one that is too large, and one to a registry that lies about where to.
func TestPushRefused(t *testing.T) {
	r := registrytest.Start(t, registrytest.Config{Htpasswd: true})
	c := client(t, registry.Options{})
	ctx := within(t, time.Minute)
	_, err := c.PushBlob(ctx, parse(t, r.Host+"/a:v1"), strings.NewReader("x"), 1)
	checkError(t, err, blob.ErrDenied, "docker login "+r.Host)
	_, err = c.PushManifest(ctx, parse(t, r.Host+"/a:v1"), registrytest.Manifest, make([]byte, 5<<20))
	checkError(t, err, blob.ErrInvalid, "at most")
	_, err = c.PushBlob(ctx, parse(t, "oci:///x:y"), strings.NewReader("x"), 1)
	checkError(t, err, blob.ErrInvalid, "only a registry")
	_, err = c.PushBlob(ctx, parse(t, r.Host+"/a:v1"), strings.NewReader("x"), 2)
	checkError(t, err, blob.ErrInvalid, "1 of 2")

	// An upload that is sent elsewhere goes there without credentials.
	storage := registrytest.New(t, registrytest.Script{Before: func(w http.ResponseWriter, r *http.Request) bool {
		w.WriteHeader(http.StatusCreated)
		return true
	}})
	s := registrytest.New(t, registrytest.Script{Basic: registrytest.User + ":" + registrytest.Password})
	s.Set(registrytest.Script{Basic: registrytest.User + ":" + registrytest.Password, Before: func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPost || r.Header.Get("Authorization") == "" {
			return false
		}
		w.Header().Set("Location", storage.URL+"/upload?x=1")
		w.WriteHeader(http.StatusAccepted)
		return true
	}})
	in := client(t, registry.Options{ConfigDirs: []string{registrytest.LogIn(t, registrytest.User, registrytest.Password, s.Host())}, Header: http.Header{"X-Secret": {"yes"}}})
	if _, err := in.PushBlob(ctx, parse(t, s.Host()+"/a:v1"), strings.NewReader("x"), 1); err != nil {
		t.Fatal(err)
	}
	log := storage.Log()
	if len(log) != 1 || log[0].Header.Get("Authorization") != "" || log[0].Header.Get("X-Secret") != "" || !strings.Contains(log[0].Query, "digest=sha256") {
		t.Errorf("%+v", log)
	}
}

// TestPushClosing: Close ends a push to a registry that never answers.
func TestPushClosing(t *testing.T) {
	came := make(chan struct{}, 10)
	s := registrytest.New(t, registrytest.Script{Before: func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodHead {
			return false
		}
		came <- struct{}{}
		<-r.Context().Done()
		return true
	}})
	c := client(t, registry.Options{})
	done := make(chan error, 1)
	go func() {
		_, err := c.PushBlob(context.Background(), parse(t, s.Host()+"/a:v1"), strings.NewReader("x"), 1)
		done <- err
	}()
	<-came
	c.Close()
	checkError(t, <-done, blob.ErrClosed)
}
