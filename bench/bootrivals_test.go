package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pantala/pantala/e2e/e2etest"
	"github.com/pantala/pantala/e2e/images/imagestest"
)

// stargz-snapshotter and soci-snapshotter with their defaults, but for plain HTTP. Both read only what was made for them:
// an image that is converted to another one, pushed beside the original. It is made once and stays in the registry.

var (
	stargzPrograms = []string{"containerd-stargz-grpc", "ctr-remote"}
	sociPrograms   = []string{"soci-snapshotter-grpc", "soci"}
)

// needRivals are programs in PATH or bin; b is skipped without them.
func needRivals(b *testing.B, v imagestest.Version, names []string) {
	b.Helper()
	if v.Name != "2" {
		b.Skip("rivals are booted by containerd 2: make containerd2, then CONTAINERD2_BIN=$PWD/bin/containerd2")
	}
	for _, name := range names {
		if rivalProgram(name) == "" {
			b.Skipf("no %s in PATH or bin: make bench-rivals says how to build it", name)
		}
	}
}

// rivalProgram is the path of a program; "": it is not there.
func rivalProgram(name string) string {
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	path, err := filepath.Abs(filepath.Join("..", "bin", name))
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		return ""
	}
	return path
}

// conversion is what is kept of one.
type conversion struct {
	Seconds, CPU float64
}

// converts has the registry keep an image that make makes of the stage's own, and takes it for that.
func (s *bootStage) converts(suffix string, make func(name string) conversion) (cpu float64) {
	s.w.T.Helper()
	name := s.image.tag + "-" + suffix
	record := filepath.Join(s.kept, name+".json")
	var c conversion
	raw, err := os.ReadFile(record)
	if err == nil {
		err = json.Unmarshal(raw, &c)
	}
	if err != nil || !s.has(name) {
		c = make(name)
		raw, err := json.Marshal(c)
		if err == nil {
			err = os.WriteFile(record, raw, 0o644)
		}
		if err != nil {
			s.w.T.Fatal(err)
		}
	}
	s.w.T.Logf("%s: converting took %.0f s and %.0f CPU-s", name, c.Seconds, c.CPU)
	s.name = name
	return c.CPU
}

func convertStargz(s *bootStage) float64 {
	return s.converts("stargz", func(name string) conversion { return s.estargz(name, "--no-optimize") })
}

// optimizeStargz runs the program of the race and has what it reads come first, which is fetched before it is asked for.
func optimizeStargz(s *bootStage) float64 {
	return s.converts("stargz-"+s.image.name, func(name string) conversion {
		list := func(args []string) string { return `["` + strings.Join(args, `","`) + `"]` }
		return s.estargz(name, "--entrypoint", list(s.image.args[:1]), "--args", list(s.image.args[1:]))
	})
}

// estargz pulls the image, converts it with all processors, and pushes what comes of it. What containerd does for
// ctr-remote counts.
func (s *bootStage) estargz(name string, flags ...string) conversion {
	h := s.lan.Host()
	c := s.v.StartAlone(s.w, h)
	defer c.End()
	from, to := s.addr+"/"+s.image.tag+":latest", s.addr+"/"+name+":latest"
	c.MustCtr("image", "pull", "--plain-http", "--snapshotter", "overlayfs", from)
	before, began := e2etest.CPU(c.PID()), time.Now()
	argv := []string{rivalProgram("ctr-remote"), "-a", c.Socket, "-n", c.Namespace, "image", "optimize", "--oci"}
	p := h.Start(e2etest.Command{Args: append(append(argv, flags...), from, to), Env: []string{"PATH=" + os.Getenv("CONTAINERD2_BIN") + ":" + os.Getenv("PATH")}})
	r := p.Wait(6 * limit) // four minutes of a processor, seen
	if r.Code != 0 {
		// Seen with layers that name files of directories which they do not have, as umoci makes them.
		said := e2etest.Lines(r.Stderr)
		s.w.T.Skipf("ctr-remote does not convert %s: %s", s.image.tag, said[len(said)-1])
	}
	done := conversion{time.Since(began).Seconds(), (r.CPU + e2etest.CPU(c.PID()) - before).Seconds()}
	c.MustCtr("image", "push", "--plain-http", to)
	return done
}

// convertSOCI makes an index of each layer of at least 10 MiB.
func convertSOCI(s *bootStage) float64 {
	return s.converts("soci", func(name string) conversion {
		dir := s.w.Dir("soci")
		from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
		skopeo := e2etest.NeedProgram(s.w.T, "skopeo", "apt-get install skopeo")
		s.w.MustRun(limit, skopeo, "copy", "-q", "--insecure-policy", "oci:"+s.layout+":"+s.image.tag, "oci:"+from+":latest")
		r := s.w.MustRun(limit, rivalProgram("soci"), "convert", "--standalone", "--format", "oci-dir", from, to)
		s.push("oci:"+to, name)
		if err := os.RemoveAll(dir); err != nil {
			s.w.T.Fatal(err)
		}
		return conversion{r.Took.Seconds(), r.CPU.Seconds()}
	})
}

func stargzMachine(s *bootStage, link bootLink) *bootMachine {
	return s.rival(link, "stargz", "containerd-stargz-grpc", func(addr, _ string) string {
		return fmt.Sprintf("[[resolver.host.%[1]q.mirrors]]\nhost = %[1]q\ninsecure = true\n", addr)
	})
}

func sociMachine(s *bootStage, link bootLink) *bootMachine {
	return s.rival(link, "soci", "soci-snapshotter-grpc", func(addr, containerd string) string {
		// It waits 10 s for a containerd that is not there, though it asks it for nothing.
		return fmt.Sprintf("[content_store]\ncontainerd_address = %[2]q\n[[resolver.host.%[1]q.mirrors]]\nhost = \"http://%[1]s\"\ninsecure = true\n", addr, containerd)
	})
}

// rival is a fresh machine with a snapshotter of somebody else, configured for a registry at an address and a containerd.
func (s *bootStage) rival(link bootLink, name, program string, config func(addr, containerd string) string) *bootMachine {
	s.w.T.Helper()
	h := s.lan.Host()
	addr := s.from(h, link)
	dir := s.w.Dir(name)
	sn := imagestest.Snapshotter{Name: name, Socket: filepath.Join(dir, "s.sock"), Root: filepath.Join(dir, "root")}
	c := s.v.StartBeside(s.w, h, sn)
	conf := s.w.Write("config.toml", []byte(config(addr, c.Socket)))
	p := h.Start(e2etest.Command{Args: []string{rivalProgram(program), "--address", sn.Socket, "--root", sn.Root, "--config", conf}})
	s.w.Defer(func() { stop(p) })
	s.w.Until(limit, name+" has its socket", func() bool {
		_, err := os.Stat(sn.Socket)
		return err == nil || p.Ended()
	})
	if p.Ended() {
		s.w.T.Fatalf("%v", p.Wait(0))
	}
	return &bootMachine{c, name, addr + "/" + s.name + ":latest", p.PID(), func() {
		c.End()
		p.Signal(syscall.SIGTERM) // it unmounts what it serves
		p.Wait(limit)
		for _, m := range e2etest.MountsBelow(dir) {
			if err := e2etest.ForceUnmount(m.Dir); err != nil {
				s.w.T.Fatal(err)
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			s.w.T.Fatal(err)
		}
	}}
}
