package inflate

import (
	"bytes"
	stdflate "compress/flate"
	stdgzip "compress/gzip"
	"encoding/binary"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/gzip"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// content is n bytes of what layers are made of: text, tables of a program, what is compressed already, zeros, and
// repetitions from near and from as far as a distance reaches.
func content(n int) []byte {
	r := rand.New(rand.NewPCG(7, 7))
	words := make([][]byte, 2000)
	for i := range words {
		w := make([]byte, 2+r.IntN(9))
		for j := range w {
			w[j] = "etaoinshrdlucmfwypvbgkjqxz_(){}.,;=\n"[min(r.IntN(36), r.IntN(36))]
		}
		words[i] = w
	}
	var b []byte
	for len(b) < n {
		switch r.IntN(12) {
		case 0:
			b = append(b, make([]byte, r.IntN(6000))...)
		case 1:
			noise := make([]byte, r.IntN(20000))
			for i := range noise {
				noise[i] = byte(r.Uint32())
			}
			b = append(b, noise...)
		case 2:
			v := r.Uint32()
			for range r.IntN(4000) {
				v += uint32(r.IntN(40))
				b = binary.LittleEndian.AppendUint32(b, v)
			}
		case 3:
			if d := winSize - r.IntN(3); len(b) >= winSize {
				for range r.IntN(500) {
					b = append(b, b[len(b)-d])
				}
			}
		default:
			for range r.IntN(3000) {
				b = append(append(b, words[min(r.IntN(2000), r.IntN(2000))]...), ' ')
			}
		}
	}
	return b[:n]
}

// sample is one gzip file by one encoder.
type sample struct {
	name            string
	stored, decoded []byte
}

// corpus are files by all encoders. Those of programs that are missing are left out, and fail where CI=true.
func corpus(t testing.TB) []sample {
	t.Helper()
	all := slices.Clone(inGo())
	plain := bigContent()
	dir := t.TempDir()
	file := dir + "/a file"
	if err := os.WriteFile(file, plain, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"gzip", "-1"}, {"gzip", "-6"}, {"gzip", "-9"}, {"gzip", "-9", "--rsyncable"},
		{"pigz", "-6"}, {"pigz", "-9", "-i", "-b", "64"}, {"pigz", "-11", "-b", "512"},
		{"igzip", "-0"}, {"igzip", "-1"}, {"igzip", "-3"}, {"igzip", "-2", "-T", "2"},
	} {
		if _, err := exec.LookPath(args[0]); err != nil {
			if os.Getenv("CI") == "true" {
				t.Errorf("this machine should have %s: apt-get install gzip pigz isal", args[0])
			}
			t.Logf("left out, as there is no %s", args[0])
			continue
		}
		in := plain
		if args[1] == "-11" { // zopfli, which takes its time
			in = plain[:200<<10]
		}
		cmd := exec.Command(args[0], append(args[1:], "-c")...)
		if slices.Contains(args, "-6") { // with the name in the header
			cmd = exec.Command(args[0], append(args[1:], "-c", file)...)
		} else {
			cmd.Stdin = bytes.NewReader(in)
		}
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, stderr.Bytes())
		}
		all = append(all, sample{strings.Join(args, ""), out, in})
	}
	return all
}

var bigContent = sync.OnceValue(func() []byte { return content(1 << 20) })

// inGo are the files of encoders that are libraries, or ours.
var inGo = sync.OnceValue(func() (all []sample) {
	plain := bigContent()
	add := func(name string, stored, decoded []byte) { all = append(all, sample{name, stored, decoded}) }
	for name, level := range map[string]int{"std-1": 1, "std-6": 6, "std-9": 9, "std-huffman": -2, "std-stored": 0} {
		var b bytes.Buffer
		w, _ := stdgzip.NewWriterLevel(&b, level)
		w.Name, w.Comment, w.Extra = "a name", "a comment", []byte("SZ\x02\x00xy")
		w.Write(plain)
		w.Close()
		add(name, b.Bytes(), plain)
	}
	for name, level := range map[string]int{"klauspost-1": 1, "klauspost-5": 5, "klauspost-9": 9, "klauspost-stateless": -3} {
		var b bytes.Buffer
		w, _ := gzip.NewWriterLevel(&b, level)
		w.Write(plain)
		w.Close()
		add(name, b.Bytes(), plain)
	}

	// Streams that are flushed at odd places: an empty stored block (Z_SYNC_FLUSH); with the history forgotten
	// (Z_FULL_FLUSH), as for restartable files.
	r := rand.New(rand.NewPCG(3, 3))
	sync := stdMember(plain, func(w *stdflate.Writer, b *bytes.Buffer) {
		for p := plain; len(p) > 0; {
			n := min(len(p), r.IntN(90000))
			w.Write(p[:n])
			w.Flush()
			p = p[n:]
		}
	})
	add("sync-flush", sync, plain)
	full := stdMember(plain, func(w *stdflate.Writer, b *bytes.Buffer) {
		for p := plain; len(p) > 0; {
			n := min(len(p), r.IntN(90000))
			w.Write(p[:n])
			w.Flush()
			w.Reset(b)
			p = p[n:]
		}
	})
	add("full-flush", full, plain)

	// Members of every length, empty ones too, some with padding behind them (RFC 1952 has none, gzip accepts it).
	var many []byte
	for p := plain; ; {
		n := min(len(p), r.IntN(1+r.IntN(100000)))
		many = append(many, stdMember(p[:n], func(w *stdflate.Writer, b *bytes.Buffer) { w.Write(p[:n]) })...)
		if p = p[n:]; len(p) == 0 {
			break
		}
	}
	add("members", many, plain)
	add("padded", append(slices.Clone(full), make([]byte, 70000)...), plain)
	add("padded-members", slices.Concat(full, make([]byte, 512), sync, make([]byte, 3)), slices.Concat(plain, plain))
	add("empty", stdMember(nil, func(*stdflate.Writer, *bytes.Buffer) {}), nil)

	for name, kinds := range map[string][]int{"made-fixed": {1}, "made-dynamic": {2}, "made-stored": {0}, "made-mixed": {0, 1, 2}} {
		for seed := range uint64(3) {
			stored, decoded := generated(seed, 1+int(seed), 20, 5000, kinds...)
			add(name, stored, decoded)
		}
	}
	for name, kind := range map[string]int{"one-block": 2, "one-fixed-block": 1} { // as igzip -0 writes them
		stored, decoded := generated(9, 1, 1, 400000, kind)
		add(name, stored, decoded)
	}
	slices.SortFunc(all, func(a, b sample) int { return bytes.Compare([]byte(a.name), []byte(b.name)) })
	return all
})

// library is the sample of that name.
func library(name string) sample {
	return inGo()[slices.IndexFunc(inGo(), func(s sample) bool { return s.name == name })]
}

// stdMember is a member whose deflate stream write makes.
func stdMember(plain []byte, write func(*stdflate.Writer, *bytes.Buffer)) []byte {
	b := bytes.NewBuffer([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255})
	w, err := stdflate.NewWriter(b, 6)
	if err != nil {
		panic(err)
	}
	write(w, b)
	w.Close()
	binary.Write(b, binary.LittleEndian, crc32.ChecksumIEEE(plain))
	binary.Write(b, binary.LittleEndian, uint32(len(plain)))
	return b.Bytes()
}

// byStd is what the standard library makes of a file.
func byStd(stored []byte) ([]byte, error) {
	r, err := stdgzip.NewReader(bytes.NewReader(stored))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}
