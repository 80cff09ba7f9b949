package swarm_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/swarm"
	"github.com/pantala/pantala/swarm/swarmtest"
)

const (
	dataEnv   = "PANTALA_SWARM_DATA"   // what is moved over a slow link: "program" (this one) or "noise"
	plainEnv  = "PANTALA_SWARM_PLAIN"  // set: without compression
	getterEnv = "PANTALA_SWARM_GETTER" // gets all of it from there
)

// linkData is the content of linkGeometry.
func linkData() []byte {
	if os.Getenv(dataEnv) != "program" {
		return swarmtest.Random(linkGeometry.Size, 1)
	}
	program, err := os.ReadFile(os.Args[0])
	if err != nil {
		panic(err)
	}
	return bytes.Repeat(program, int(linkGeometry.Size)/len(program)+1)[:linkGeometry.Size]
}

// gotten is what a getter prints.
type gotten struct {
	Took, CPU time.Duration
}

// getterMain gets a quarter of the blob, in the background.
func getterMain(at string) {
	g := linkGeometry
	from := swarmtest.NewSeed(g, linkData())
	n, err := swarm.NewNode(swarm.Options{Listen: "0.0.0.0:0", NoCompress: os.Getenv(plainEnv) != ""})
	if err != nil {
		panic(err)
	}
	s := swarmtest.NewMemStore(g)
	s.TakeRoots(from, blob.Claimed)
	t, err := n.Add(swarm.Config{Keys: [][20]byte{key}, Name: name, Store: s})
	if err != nil {
		panic(err)
	}
	t.AddPeers(netip.MustParseAddrPort(at))
	for !t.Has(g.Blob()) {
		time.Sleep(time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	began, used := time.Now(), cpu(syscall.RUSAGE_SELF)
	if err := fetch(blob.WithClass(ctx, blob.Background), t, s, blob.Run{Count: g.Blocks() / 4}); err != nil {
		panic(err)
	}
	json.NewEncoder(os.Stdout).Encode(gotten{time.Since(began), cpu(syscall.RUSAGE_SELF) - used})
}

// BenchmarkSlowLink gets 16 MiB over a link, with compression and without: of a program, which shrinks to about
// 0.45, and of noise. CPU seconds are of the getter.
func BenchmarkSlowLink(b *testing.B) {
	needNet(b)
	for _, rate := range []string{"40mbit", "100mbit", "1gbit"} {
		for _, data := range []string{"program", "noise"} {
			for _, plain := range []string{"", "1"} {
				b.Run(fmt.Sprintf("%s/%s/%s", rate, data, map[string]string{"": "zstd", "1": "plain"}[plain]), func(b *testing.B) {
					seeder, leecher := slowLink(b, rate)
					env := []string{dataEnv + "=" + data, plainEnv + "=" + plain}
					cmd, lines := role(b, seeder, append(env, seederEnv+"=1", listenEnv+"=10.99.0.1:7001")...)
					if _, err := lines.ReadString('\n'); err != nil {
						b.Fatal(err)
					}
					b.SetBytes(linkGeometry.Size / 4)
					var sum gotten
					runs := 0
					b.ResetTimer()
					for b.Loop() {
						_, lines := role(b, leecher, append(env, getterEnv+"=10.99.0.1:7001")...)
						var g gotten
						if err := json.NewDecoder(lines).Decode(&g); err != nil {
							b.Fatal(err)
						}
						sum.Took += g.Took
						sum.CPU += g.CPU
						runs++
					}
					b.StopTimer()
					gib := float64(runs) * float64(linkGeometry.Size/4) / (1 << 30)
					b.ReportMetric(float64(runs)*float64(linkGeometry.Size/4)/1e6/sum.Took.Seconds(), "moved-MB/s")
					b.ReportMetric(sum.CPU.Seconds()/gib, "getter-cpu-s/GiB")
					_ = cmd
				})
			}
		}
	}
}

// TestCompression: over a slow connection what shrinks is sent compressed, and arrives whole; what does not is sent
// as it is; and who does not want it does not get it.
func TestCompression(t *testing.T) {
	g := blob.GeometryFor(6<<20 + 4321)
	text := bytes.Repeat([]byte("pieces of a blob, and blocks of a piece; "), int(g.Size)/40)[:g.Size]
	noise := swarmtest.Random(g.Size, 21)
	for name, c := range map[string]struct {
		data           []byte
		seeder, getter swarm.Options
		shrinks        bool
	}{
		"text":               {data: text, shrinks: true},
		"noise":              {data: noise},
		"seeder is not to":   {data: text, seeder: swarm.Options{NoCompress: true}},
		"getter is not to":   {data: text, getter: swarm.Options{NoCompress: true}},
		"half of it shrinks": {data: append(bytes.Clone(noise[:g.Size/2]), text[g.Size/2:]...), shrinks: true},
	} {
		t.Run(name, func(t *testing.T) {
			c.seeder.UploadLimit = 8 << 20 // slow enough for it to be tried
			from := seed(t, g, c.data)
			seeder := newNode(t, c.seeder)
			up := add(t, seeder, from, blob.Hash{})
			to := empty(t, g)
			to.TakeRoots(from, blob.Claimed)
			tor := add(t, newNode(t, c.getter), to, blob.Hash{})
			tor.AddPeers(seeder.Addr())
			await(t, tor, g.Blob())
			if err := fetch(blob.WithClass(deadline(t), blob.Background), tor, to, g.Blob()); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(to.Bytes(), c.data) {
				t.Error("bytes differ")
			}
			// The last block counts when it has gone out, which the getter may notice first.
			until(t, fmt.Sprintf("%d bytes uploaded", g.Size), func() bool { return up.Stats().Uploaded >= g.Size })
			saved := up.Stats().Saved
			t.Logf("%d of %d bytes saved", saved, g.Size)
			if c.shrinks && saved < g.Size/10 || !c.shrinks && saved > g.Size/50 {
				t.Errorf("%d of %d bytes were saved", saved, g.Size)
			}
			if up := up.Stats().Uploaded; up != g.Size {
				t.Errorf("%d bytes count as uploaded, %d are the blob", up, g.Size)
			}
		})
	}
}
