package config

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/pantala/pantala/blob"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func write(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDefaults(t *testing.T) {
	for _, c := range []struct {
		name  string
		uid   int
		env   []string
		state string
		other bool
	}{
		{"root", 0, []string{"HOME=/root", "XDG_STATE_HOME=/x"}, "/var/lib/pantala", true},
		{"user", 1000, []string{"HOME=/home/u"}, "/home/u/.local/state/pantala", false},
		{"xdg", 1000, []string{"HOME=/home/u", "XDG_STATE_HOME=/x"}, "/x/pantala", false},
		{"relative xdg is ignored", 1000, []string{"HOME=/home/u", "XDG_STATE_HOME=x"}, "/home/u/.local/state/pantala", false},
		{"homeless", 1000, []string{"USER=u"}, filepath.Join(os.TempDir(), "pantala-u"), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Load(Input{UID: c.uid, Env: c.env})
			if err != nil {
				t.Fatal(err)
			}
			if got.State != c.state || got.AllowOther != c.other || got.Listen != "127.0.0.1:0" || got.Fill != "idle" ||
				got.Timeout != 30*time.Second || got.Memory != 64<<20 || !got.Passthrough || got.Hard || got.Strict {
				t.Errorf("%+v", got)
			}
			if got.From("state") != "" {
				t.Errorf("a default has the origin %q", got.From("state"))
			}
		})
	}
}

func TestLayers(t *testing.T) {
	path := write(t, "state: /file\nlisten: 127.0.0.1:1\nfill: never\nquota: 10GiB\ntracker: [http://a/announce, http://b/announce]\nlog-level: debug\nhard: true\nzone: eu/a\npex: off\ncompress: off\nlsd: on\ndht-bootstrap: [a:1, 'b:2']\ntenants: {t.1: {download: 1MB, origin: 7}, u: }\nclasses: {background: {upload: 2MB}}\norigin-limit: 3\n")
	got, err := Load(Input{
		File:  path,
		Env:   []string{"PANTALA_LISTEN=127.0.0.1:2", "PANTALA_FILL=eager", "PANTALA_TIMEOUT=5s", "PANTALA_STRICT=1", "PANTALA_ROLE=seed", "PANTALA_QUOTA=", "OTHER=x"},
		Flags: map[string]string{"listen": ":3", "memory": "8MiB", "passthrough": "false", "dht": "on"},
	})
	if err != nil {
		t.Fatal(err)
	}
	from := map[string]string{}
	for _, k := range Keys() {
		if f := got.From(k); f != "" {
			from[k] = f
		}
	}
	wantFrom := map[string]string{
		"state": path + ": state", "listen": "flag --listen", "fill": "PANTALA_FILL", "quota": path + ": quota",
		"tracker": path + ": tracker", "log-level": path + ": log-level", "hard": path + ": hard",
		"zone": path + ": zone", "pex": path + ": pex", "compress": path + ": compress", "lsd": path + ": lsd", "dht-bootstrap": path + ": dht-bootstrap", "dht": "flag --dht", "tenants": path + ": tenants", "classes": path + ": classes", "origin-limit": path + ": origin-limit", "role": "PANTALA_ROLE", "timeout": "PANTALA_TIMEOUT", "strict": "PANTALA_STRICT", "memory": "flag --memory", "passthrough": "flag --passthrough",
	}
	if d := cmp.Diff(wantFrom, from); d != "" {
		t.Errorf("origins (-want +got):\n%s", d)
	}
	want := Config{
		State: "/file", Listen: ":3", Zone: "eu/a", Role: Seed, Trackers: []string{"http://a/announce", "http://b/announce"}, LogLevel: slog.LevelDebug,
		Fill: "eager", Timeout: 5 * time.Second, Hard: true, Strict: true, Quota: 10 << 30, Memory: 8 << 20, ImageMount: Auto, AllowOther: true,
		LSD: On, DHT: true, Bootstrap: []string{"a:1", "b:2"}, OriginLimit: 3, Tenants: map[string]Rates{"t.1": {Download: 1e6, Origin: 7}, "u": {}},
		Classes: map[string]Rates{"background": {Upload: 2e6}},
	}
	got.from = nil
	if got.File() != path {
		t.Errorf("file %q", got.File())
	}
	got.file = ""
	if d := cmp.Diff(want, got, cmp.AllowUnexported(Config{})); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestTrackerForms(t *testing.T) {
	for in, want := range map[string][]string{
		"tracker: http://a/announce":                         {"http://a/announce"},
		"tracker: 'http://a/announce, https://b:7/announce'": {"http://a/announce", "https://b:7/announce"},
		"tracker: ''": nil,
	} {
		got, err := Load(Input{File: write(t, in)})
		if err != nil {
			t.Errorf("%s: %v", in, err)
		}
		if d := cmp.Diff(want, got.Trackers); d != "" {
			t.Errorf("%s: %s", in, d)
		}
	}
}

func TestRefused(t *testing.T) {
	for _, c := range []struct {
		name, file string
		env        string
		flag       [2]string
		want       []string
	}{
		{"key of the file", "lissen: x", "", [2]string{}, []string{`unknown key "lissen"`, `did you mean "listen"?`, "config.yaml"}},
		{"key that is near nothing", "colour: red", "", [2]string{}, []string{"colour", "known are allow-other, cacert"}},
		{"nested key", "state.dir: x", "", [2]string{}, []string{`unknown key "state.dir"`}},
		{"mapping for a value", "state: {dir: x}", "", [2]string{}, []string{"state", "not a text"}},
		{"variable", "", "PANTALA_TRACKR=x", [2]string{}, []string{"PANTALA_TRACKR", `"PANTALA_TRACKER"?`}},
		{"variable in lower case", "", "PANTALA_listen=:1", [2]string{}, []string{"PANTALA_listen"}},
		{"flag", "", "", [2]string{"fil", "x"}, []string{`"fill"?`}},
		{"address", "listen: 7700", "", [2]string{}, []string{"HOST:PORT"}},
		{"port", "listen: 'a:99999'", "", [2]string{}, []string{"HOST:PORT"}},
		{"zone", "zone: eu//a", "", [2]string{}, []string{"zone", "eu/zone-a/rack-7/host-3"}},
		{"lsd", "lsd: perhaps", "", [2]string{}, []string{"on, off, auto"}},
		{"pex", "", "PANTALA_PEX=maybe", [2]string{}, []string{"PANTALA_PEX", "neither on nor off"}},
		{"dht-bootstrap", "dht-bootstrap: router", "", [2]string{}, []string{"HOST:PORT"}},
		{"dht-bootstrap without a port", "dht-bootstrap: 'router:0'", "", [2]string{}, []string{"HOST:PORT"}},
		{"tenants", "tenants: 3", "", [2]string{}, []string{"tenants", "training: {download"}},
		{"tenant's limit", "tenants: {a: {donwload: 3}}", "", [2]string{}, []string{`"a"`, `"download"?`}},
		{"tenant's size", "tenants: {a: {upload: much}}", "", [2]string{}, []string{`"a"`, "upload", "10GiB"}},
		{"classes", "classes: {bulk: {upload: 3}}", "", [2]string{}, []string{"classes", `"bulk"`, "background"}},
		{"tenants as a variable", "", "PANTALA_TENANTS=a", [2]string{}, []string{"PANTALA_TENANTS", "configuration file"}},
		{"upload-limit", "", "", [2]string{"upload-limit", "fast"}, []string{"flag --upload-limit", "10GiB"}},
		{"role", "role: server", "", [2]string{}, []string{"peer, seed"}},
		{"bare number for a time", "timeout: 30", "", [2]string{}, []string{"30s"}},
		{"no time at all", "timeout: 0s", "", [2]string{}, []string{"longer than zero"}},
		{"size", "quota: many", "", [2]string{}, []string{"10GiB"}},
		{"negative size", "quota: -1", "", [2]string{}, []string{"size"}},
		{"too little memory", "memory: 1000", "", [2]string{}, []string{"at least 1.0 MiB"}},
		{"fill", "", "PANTALA_FILL=always", [2]string{}, []string{"PANTALA_FILL", "never, idle, eager"}},
		{"keys", "index-keys: [a.pub, '']", "", [2]string{}, []string{"names no file"}},
		{"bool", "strict: perhaps", "", [2]string{}, []string{"neither true nor false"}},
		{"tracker", "", "", [2]string{"tracker", "ftp://a:1"}, []string{"flag --tracker", "http://HOST:PORT/announce"}},
		{"log level", "log-level: loud", "", [2]string{}, []string{"debug, info"}},
		{"bad value below a good one", "fill: x", "PANTALA_FILL=idle", [2]string{}, []string{"config.yaml: fill"}},
		{"not YAML", "a: [", "", [2]string{}, []string{"config.yaml"}},
		{"not a mapping", "- a", "", [2]string{}, []string{"config.yaml"}},
		{"key twice", "fill: idle\nfill: never", "", [2]string{}, []string{"config.yaml"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := Input{}
			if c.file != "" {
				in.File = write(t, c.file)
			}
			if c.env != "" {
				in.Env = []string{c.env}
			}
			if c.flag[0] != "" {
				in.Flags = map[string]string{c.flag[0]: c.flag[1]}
			}
			_, err := Load(in)
			if !errors.Is(err, blob.ErrInvalid) {
				t.Fatalf("got %v", err)
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than a line: %q", err)
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q does not say %q", err, w)
				}
			}
		})
	}
}

func TestFileMustExistWhenNamed(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "none.yaml")
	for _, in := range []Input{{File: missing}, {Env: []string{"PANTALA_CONFIG=" + missing}}} {
		if _, err := Load(in); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%+v: %v", in, err)
		}
	}
	if _, err := Load(Input{File: t.TempDir()}); !errors.Is(err, blob.ErrInvalid) {
		t.Errorf("a directory: %v", err)
	}
}

func TestFileOfUser(t *testing.T) {
	home := t.TempDir()
	dir := filepath.Join(home, ".config", "pantala")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.yaml"), []byte("fill: eager"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := Load(Input{UID: 1000, Env: []string{"HOME=" + home}})
	if err != nil || got.Fill != "eager" {
		t.Errorf("%q, %v", got.Fill, err)
	}
}

func TestKubernetesVariablesAreNotOurs(t *testing.T) {
	env := []string{
		"PANTALA_SERVICE_HOST=10.0.0.1", "PANTALA_SERVICE_PORT=7700", "PANTALA_SERVICE_PORT_HTTP=7700", "PANTALA_PORT=tcp://10.0.0.1:7700",
		"PANTALA_PORT_7700_TCP=x", "PANTALA_PORT_7700_TCP_ADDR=x", "PANTALA_TRACKER_SERVICE_HOST=x", "PANTALA_TRACKER_PORT_7700_TCP=x", "PANTALA_TRACKER_PORT=tcp://x",
	}
	if _, err := Load(Input{Env: env}); err != nil {
		t.Error(err)
	}
}

func TestNearest(t *testing.T) {
	for _, c := range []struct {
		in, want string
		near     bool
	}{
		{"lsiten", "listen", true}, {"listne", "listen", true}, {"trackers", "tracker", true}, {"quotta", "quota", true},
		{"logg-level", "log-level", true}, {"xyz", "", false}, {"", "", false},
	} {
		got, near := Nearest(c.in, Keys())
		if near != c.near || near && got != c.want {
			t.Errorf("%q: %q, %v", c.in, got, near)
		}
	}
	if _, near := Nearest("x", nil); near {
		t.Error("something is near nothing")
	}
}

// TestDistance checks what makes it a distance, and that one edit is one.
func TestDistance(t *testing.T) {
	word := rapid.StringMatching(`[a-d]{0,6}`)
	rapid.Check(t, func(t *rapid.T) {
		a, b := word.Draw(t, "a"), word.Draw(t, "b")
		d := distance(a, b)
		if d != distance(b, a) {
			t.Fatalf("not symmetric")
		}
		if (d == 0) != (a == b) {
			t.Fatalf("distance %d of %q and %q", d, a, b)
		}
		if d > max(len(a), len(b)) || d < max(len(a), len(b))-min(len(a), len(b)) {
			t.Fatalf("distance %d is out of bounds", d)
		}
		at := rapid.IntRange(0, len(a)).Draw(t, "at")
		if one := distance(a, a[:at]+"x"+a[at:]); one != 1 {
			t.Fatalf("one insertion is %d", one)
		}
	})
}

func TestParseSize(t *testing.T) {
	for in, want := range map[string]int64{"0": 0, "4096": 4096, "200M": 200e6, "10GiB": 10 << 30, "1.5 KiB": 1536} {
		if got, err := ParseSize(in); err != nil || got != want {
			t.Errorf("%q: %d, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "x", "-1", "1XB", "99999999999EB"} {
		if _, err := ParseSize(in); !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("%q: %v", in, err)
		}
	}
}

// FuzzFile: a configuration file never panics, its errors are one line of class ErrInvalid, and what is
// accepted is within bounds.
func FuzzFile(f *testing.F) {
	for _, s := range []string{"", "state: /x\nlisten: :1\n", "quota: 1e3", "tracker: [http://a, 3]", "a: &a [*a]", "? x\n: y", "timeout: 1h", "state: \"\\0\"", "fill: !!binary eA==", "1: 2", "memory: 0x100000", "{}", "---\n---\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 4096 {
			return
		}
		l, err := parseFile("c.yaml", data)
		var c Config
		if err == nil {
			c, err = merge(Default(0, func(string) string { return "" }), []layer{l})
		}
		if err != nil {
			if !errors.Is(err, blob.ErrInvalid) {
				t.Fatalf("class of %v", err)
			}
			return
		}
		if c.Quota < 0 || c.Memory < 1<<20 || c.Timeout <= 0 || c.State == "" || c.Listen == "" {
			t.Fatalf("accepted %+v", c)
		}
	})
}

// TestUnreadableFile: what cannot be read is told apart from what is wrong in it, and says what to do.
func TestUnreadableFile(t *testing.T) {
	dir := t.TempDir()
	loop := filepath.Join(dir, "loop")
	if err := os.Symlink("loop", loop); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "none"):         "create it, or name another one with --config",
		loop:                               "readable for user id 7, or name another one with --config",
		filepath.Join(loop, "config.yaml"): "readable for user id 7, or name another one with --config",
	} {
		_, err := Load(Input{File: path, UID: 7})
		if err == nil || errors.Is(err, blob.ErrInvalid) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
