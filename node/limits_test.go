package node

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/config"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/origin/origintest"
)

// slower fails when something took less time than its bytes need at a rate. What may pass at once is 64 KiB or
// 50 ms in background, and one request besides.
func slower(t *testing.T, what string, began time.Time, size, rate int64) {
	t.Helper()
	free := max(64<<10, rate/20) + 256<<10
	if took, least := time.Since(began), time.Duration(float64(size-free)/float64(rate)*float64(time.Second)); took < least {
		t.Errorf("%s: %d bytes in %v, less than %v", what, size, took, least)
	}
}

// TestLimits: each kind of limit is kept, alone: the node's, a tenant's, and a blob's, on the side that sends and on
// the one that receives.
func TestLimits(t *testing.T) {
	const size, rate = 3 << 20, 4 << 20
	want := origintest.Bytes(41, size)
	for name, c := range map[string]struct {
		seeder, leecher func(*config.Config)
		share, get      control.Options
		fromOrigin      bool
	}{
		"upload":            {seeder: func(c *config.Config) { c.UploadLimit = rate }},
		"upload of tenant":  {seeder: func(c *config.Config) { c.Tenants = map[string]config.Rates{"a": {Upload: rate}} }, share: control.Options{Tenant: "a"}},
		"upload of blob":    {share: control.Options{LimitRate: rate}},
		"download":          {leecher: func(c *config.Config) { c.DownloadLimit = rate }},
		"download of blob":  {get: control.Options{LimitRate: rate}},
		"class's upload":    {seeder: func(c *config.Config) { c.Classes = map[string]config.Rates{"background": {Upload: rate}} }},
		"class's download":  {leecher: func(c *config.Config) { c.Classes = map[string]config.Rates{"background": {Download: rate}} }},
		"tenant's download": {leecher: func(c *config.Config) { c.Tenants = map[string]config.Rates{"a": {Download: rate}} }, get: control.Options{Tenant: "a"}},
		"origin":            {leecher: func(c *config.Config) { c.OriginLimit = rate }, fromOrigin: true},
		"tenant's origin":   {leecher: func(c *config.Config) { c.Tenants = map[string]config.Rates{"a": {Origin: rate}} }, get: control.Options{Tenant: "a"}, fromOrigin: true},
		"download by HTTP":  {leecher: func(c *config.Config) { c.DownloadLimit = rate }, fromOrigin: true},
	} {
		t.Run(name, func(t *testing.T) {
			cs, cl := conf(t), conf(t)
			if c.seeder != nil {
				c.seeder(&cs)
			}
			if c.leecher != nil {
				c.leecher(&cl)
			}
			source := ""
			if c.fromOrigin {
				source = origintest.New(t, origintest.Of(want)).At("/x")
			} else {
				seeder := start(t, cs)
				path := filepath.Join(t.TempDir(), "x")
				if err := os.WriteFile(path, want, 0o600); err != nil {
					t.Fatal(err)
				}
				reply, err := seeder.Share(patient(t), control.ShareRequest{Path: path, Options: c.share}, nil)
				if err != nil {
					t.Fatal(err)
				}
				source = reply.Magnet
			}
			leecher := start(t, cl)
			began := time.Now()
			d, err := leecher.Download(patient(t), source, c.get, c.get.LimitRate, noProgress)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			if err := d.Wait(patient(t), blob.Hash{}, func(control.Transfer) {}); err != nil {
				t.Fatal(err)
			}
			slower(t, name, began, size, rate)
			var b bytes.Buffer
			if err := d.CopyTo(patient(t), &b, blob.Hash{}, func(control.Transfer) {}); err != nil || !bytes.Equal(b.Bytes(), want) {
				t.Errorf("bytes differ, %v", err)
			}
		})
	}
}

// TestLimitsChange: a download that would take hours ends when its limit is lifted.
func TestLimitsChange(t *testing.T) {
	want := origintest.Bytes(42, 3<<20)
	c := conf(t)
	c.DownloadLimit = 1000
	c.Tenants = map[string]config.Rates{"known": {Upload: 7}}
	n := start(t, c)
	d := open(t, n, origintest.New(t, origintest.Of(want)).At("/x"), 0)
	defer d.Close()
	if err := n.expect([]control.Setting{{Key: "download-limit", Value: "1000"}}); err != nil {
		t.Error(err)
	}
	none, some := int64(0), int64(5)
	got, err := n.Limits(t.Context(), control.LimitsRequest{Download: &none, Upload: &some})
	if err != nil || got.Download != 0 || got.Upload != 5 || got.Tenants["known"].Upload != 7 {
		t.Errorf("%+v, %v", got, err)
	}
	if err := d.Wait(patient(t), blob.Hash{}, func(control.Transfer) {}); err != nil {
		t.Error(err)
	}
	if err := n.expect([]control.Setting{{Key: "download-limit", Value: "1000"}}); !errors.Is(err, blob.ErrInvalid) {
		t.Errorf("a command that names the old limit: %v", err)
	}
	if got, err = n.Limits(t.Context(), control.LimitsRequest{Tenant: "new", Origin: &some}); err != nil || got.Tenants["new"].Origin != 5 {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err = n.Limits(t.Context(), control.LimitsRequest{Class: "background", Upload: &some}); err != nil || got.Classes["background"].Upload != 5 || len(got.Classes) != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	for _, r := range []control.LimitsRequest{{Class: "bulk"}, {Class: "read", Tenant: "known"}} {
		if _, err := n.Limits(t.Context(), r); !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("%+v: %v", r, err)
		}
	}
	for _, bad := range []string{"a b", "-x", "../x", string(bytes.Repeat([]byte("x"), 65))} {
		if _, err := n.Limits(t.Context(), control.LimitsRequest{Tenant: bad}); !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("tenant %q: %v", bad, err)
		}
		if _, err := n.Download(patient(t), "http://127.0.0.1:1/x", control.Options{Tenant: bad}, 0, noProgress); !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("tenant %q downloads: %v", bad, err)
		}
	}
	minus := int64(-1)
	if _, err := n.Limits(t.Context(), control.LimitsRequest{Upload: &minus}); !errors.Is(err, blob.ErrInvalid) {
		t.Errorf("%v", err)
	}
	for i := range 2 * maxTenants {
		if _, err = n.Limits(t.Context(), control.LimitsRequest{Tenant: string(rune('a'+i%26)) + time.Duration(i).String()}); err != nil {
			break
		}
	}
	if !errors.Is(err, blob.ErrInvalid) {
		t.Errorf("tenants without bound: %v", err)
	}
}
