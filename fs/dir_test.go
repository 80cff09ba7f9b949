package fs

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestCheckDir(t *testing.T) {
	promise(t, "K29", "The directory must exist and be empty")
	tmp := t.TempDir()
	path := func(name string) string { return filepath.Join(tmp, name) }
	for _, name := range []string{"empty", "full/sub", "state/below"} {
		if err := os.MkdirAll(path(name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{
		"link": "empty", "into-state": "state/below", "loop": "loop", "dangling": "nowhere", "up": "../" + filepath.Base(tmp) + "/empty",
	} {
		if err := os.Symlink(target, path(name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(path("file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(path("fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		dir    string
		asFile bool
		want   string // part of the message; "" for no error
	}{
		{"empty", false, ""},
		{"link", false, ""},
		{"up", false, ""},
		{"full/../empty/.", false, ""},
		{"file", true, ""},
		{"missing", false, "mkdir -p"},
		{"missing", true, "touch"},
		{"dangling", false, "mkdir -p"},
		{"full", false, "choose an empty directory"},
		{"file", false, "--as-file"},
		{"file/below", false, "choose another"},
		{"empty", true, "leave out --as-file"},
		{"fifo", false, "not a directory"},
		{"fifo", true, "not a regular file"},
		{"loop", false, "too many levels"},
		{"state", false, "which pantala itself needs"},
		{"state/below", false, "which pantala itself needs"},
		{"into-state", false, "which pantala itself needs"},
	} {
		err := CheckDir(path(c.dir), c.asFile, path("state"), "")
		if c.want == "" && err != nil {
			t.Errorf("%s: %v", c.dir, err)
		}
		if c.want != "" && (!errors.Is(err, ErrMountPoint) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n")) {
			t.Errorf("%s: %v; want one line with %q", c.dir, err, c.want)
		}
	}
	if err := CheckDir("", false); !errors.Is(err, ErrMountPoint) {
		t.Errorf("no directory: %v", err)
	}
	t.Chdir(tmp)
	if err := CheckDir("empty", false); err != nil {
		t.Errorf("relative: %v", err)
	}
}

func TestCheckDirOfMounts(t *testing.T) {
	m := serve(t, setup{hold: true})
	if err := CheckDir(m.dir, false); !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), "already mounted") {
		t.Errorf("alive: %v", err)
	}
	for _, inside := range []string{m.path, filepath.Join(m.dir, "sub", "sub")} {
		if err := CheckDir(inside, false); !errors.Is(err, ErrMountPoint) || !strings.Contains(err.Error(), "lies inside") {
			t.Errorf("%s: %v", inside, err)
		}
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(m.dir, link); err != nil {
		t.Fatal(err)
	}
	if err := CheckDir(link, false); !errors.Is(err, ErrBusy) {
		t.Errorf("through a link: %v", err)
	}
	// A second server is refused as well, without touching the first one.
	second := tryServe(t, setup{hold: true, serverConfig: serverConfig{Dir: m.dir}})
	if second.first.Class != "busy" {
		t.Errorf("second mount: %+v", second.first)
	}
}

func TestMountMistakes(t *testing.T) {
	for name, s := range map[string]setup{
		"slash": {serverConfig: serverConfig{Name: "a/b"}},
		"dots":  {serverConfig: serverConfig{Name: ".."}},
		"long":  {serverConfig: serverConfig{Name: strings.Repeat("x", 256)}},
		"nul":   {serverConfig: serverConfig{Name: "a\x00b"}},
	} {
		t.Run(name, func(t *testing.T) {
			if m := tryServe(t, s); !strings.Contains(m.first.Err, "cannot be the name of a file") {
				t.Errorf("%+v", m.first)
			}
		})
	}
	t.Run("names that are odd but fine", func(t *testing.T) {
		for _, name := range []string{"a b\tc,d\\e#f", "-n", strings.Repeat("é", 127), ".hidden"} {
			dir := filepath.Join(t.TempDir(), "m n,\\\tü")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			m := serve(t, setup{serverConfig: serverConfig{Name: name, Dir: dir}})
			m.sequential(t)
			if m.info.Dir != dir {
				t.Errorf("mounted on %q, want %q", m.info.Dir, dir)
			}
			m.ask(command{Op: "unmount"})
		}
	})
	t.Run("nothing is left of a mount that fails", func(t *testing.T) {
		dir := t.TempDir()
		m := tryServe(t, setup{serverConfig: serverConfig{Dir: dir, Name: "/"}})
		if m.first.Err == "" {
			t.Error("mounted")
		}
		m.notMounted()
	})
}

func TestMounts(t *testing.T) {
	m := serve(t, setup{hold: true})
	ours, err := Mounts()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range ours {
		if i == m.info && i.Type == "fuse.pantala" && i.Dir == m.dir && strings.HasPrefix(i.Source, testSource()) {
			return
		}
	}
	t.Errorf("%+v is not among %+v", m.info, ours)
}
