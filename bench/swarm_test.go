package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pantala/pantala/e2e/clients/clientstest"
	"github.com/pantala/pantala/e2e/e2etest"
)

// The race: one file, one host that has it, N that do not and all want it from the same moment on. Each host has a
// network namespace of its own, and sends at most 40 Mbit/s.
const (
	raceFile = 64 << 20
	// raceLimit ends a race: plain HTTP to 32 hosts takes 430 s.
	raceLimit = 8 * time.Minute
)

// raceBound is the time that the first host needs to send the file once, were there no headers; nobody can be
// faster. Headers of full Ethernet packets (66 of 1514 bytes) make it 1.046 of that.
var raceBound = float64(raceFile) / raceRate

// raceMbit is what each host may send, in Mbit/s, headers included. BENCH_MBIT changes it: many hosts on few processors
// need a lower rate, or the race is one for processors.
var raceMbit = func() int {
	if n, err := strconv.Atoi(os.Getenv("BENCH_MBIT")); err == nil && n > 0 {
		return n
	}
	return 40
}()

// raceRate is raceMbit in bytes per second.
var raceRate = float64(raceMbit) * 1e6 / 8

// blockTime is how long one block of 16 KiB takes on a host's link, without headers, in ms.
var blockTime = (16 << 10) * 1e3 / raceRate

// raceHosts is BENCH_HOSTS, a list such as 8,16,32.
func raceHosts(b *testing.B) (hosts []int) {
	b.Helper()
	s := os.Getenv("BENCH_HOSTS")
	if s == "" {
		s = "8"
	}
	for f := range strings.SplitSeq(s, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(f))
		if err != nil || n < 2 || n > 200 {
			b.Fatalf("BENCH_HOSTS=%q is not a list of numbers of hosts, such as 8,16,32", s)
		}
		hosts = append(hosts, n)
	}
	return hosts
}

// race is the network of one race and what came of it.
type race struct {
	b       *testing.B
	w       *e2etest.World
	file    e2etest.File
	origin  *e2etest.Host // has the file
	service *e2etest.Host // runs the tracker
	hosts   []*e2etest.Host

	start    time.Time
	finished []time.Duration // of each host that was to finish
	payload  int64           // bytes of the file that left the origin; 0: not known
	before   int64           // on the wire of the origin before the start
	wire     int64           // bytes on the wire of the origin
	cpu      time.Duration   // of all leechers' processes
	extra    map[string]float64
}

func newRace(b *testing.B, hosts int) *race {
	b.Helper()
	if s := os.Getenv("BENCH_MBIT"); s != "" && s != strconv.Itoa(raceMbit) {
		b.Fatalf("BENCH_MBIT=%q is not a number of Mbit/s, such as 20", s)
	}
	w := e2etest.New(b)
	lan := w.Net()
	r := &race{b: b, w: w, file: e2etest.Content(b, raceFile, 64), origin: lan.Host(), service: lan.Host(), extra: map[string]float64{}}
	r.origin.Cap(fmt.Sprintf("%dmbit", raceMbit))
	for range hosts {
		h := lan.Host()
		h.Cap(fmt.Sprintf("%dmbit", raceMbit))
		r.hosts = append(r.hosts, h)
	}
	return r
}

// fire is the starting shot.
func (r *race) fire() {
	r.before, _ = r.origin.Wire()
	r.start = time.Now()
}

// over takes down what the origin has sent at the end of the race.
func (r *race) over() {
	sent, _ := r.origin.Wire()
	r.wire = sent - r.before
}

// BenchmarkSwarm races clients against the lower bound. Figures: last-s, when the last host had everything; x-bound,
// that as a multiple of the bound; origin-x, what left the origin as a multiple of the file; p99/p50 of the hosts'
// times; cpu-s of a leecher on average. One run: -bench 'Swarm/hosts=8/variant=plain/client=pantala' -benchtime 1x.
// With variant=lazy besides: lazy-p50-ms and lazy-p99-ms of the reads of the worse reader; lazy-rtt-ms, its median round
// trip to those it reads from, over the queues that bulk makes; lazy-p99-x, the p99 as a multiple of three of those and
// one block, which is not to exceed 1; idle-rtt-p99-ms, the round trip to a host that sends nothing, which is what the
// machine adds. BENCH_LOGS=DIR keeps the logs and the status of the nodes, and BENCH_DEBUG=1 makes them log more,
// which takes time.
func BenchmarkSwarm(b *testing.B) {
	type contestant struct {
		variant, client string
		run             func(r *race)
	}
	all := []contestant{
		{"plain", "libtorrent", raceLibtorrent},
		{"plain", "aria2", raceAria2},
		{"plain", "pantala", func(r *race) { racePantala(r, pantalaRace{}) }},
		{"leave", "pantala", func(r *race) { racePantala(r, pantalaRace{get: true}) }},
		{"slow", "pantala", func(r *race) { racePantala(r, pantalaRace{slow: true}) }},
		{"kill", "pantala", func(r *race) { racePantala(r, pantalaRace{kill: true}) }},
		{"liar", "pantala", func(r *race) { racePantala(r, pantalaRace{liar: true}) }},
		{"nginx", "pantala", func(r *race) { racePantala(r, pantalaRace{nginx: true}) }},
		{"lazy", "pantala", func(r *race) { racePantala(r, pantalaRace{lazy: 2}) }},
	}
	e2etest.NeedNet(b)
	for _, n := range raceHosts(b) {
		b.Run(fmt.Sprintf("hosts=%d", n), func(b *testing.B) {
			for _, v := range []string{"plain", "leave", "slow", "kill", "liar", "nginx", "lazy"} {
				b.Run("variant="+v, func(b *testing.B) {
					for _, c := range all {
						if c.variant == v {
							b.Run("client="+c.client, func(b *testing.B) { repeatRace(b, n, c.run) })
						}
					}
				})
			}
		})
	}
}

// repeatRace runs a race b.N times and reports medians.
func repeatRace(b *testing.B, hosts int, run func(*race)) {
	var last, payload, wire, spread, cpu samples
	extra := map[string]samples{}
	for range b.N {
		b.StopTimer()
		r := newRace(b, hosts)
		b.StartTimer()
		run(r)
		b.StopTimer()
		slices.Sort(r.finished)
		n := len(r.finished)
		if n == 0 {
			b.Fatal("nobody finished")
		}
		last = append(last, r.finished[n-1].Seconds())
		spread = append(spread, r.finished[(n*99+99)/100-1].Seconds()/r.finished[n/2].Seconds())
		payload = append(payload, float64(r.payload)/raceFile)
		wire = append(wire, float64(r.wire)/raceFile)
		cpu = append(cpu, r.cpu.Seconds()/float64(len(r.hosts)))
		for k, v := range r.extra {
			extra[k] = append(extra[k], v)
		}
		load, _ := os.ReadFile("/proc/loadavg")
		var each []string
		for _, f := range r.finished {
			each = append(each, fmt.Sprintf("%.2f", f.Seconds()))
		}
		b.Logf("finished after s: %s; origin sent %.3f of payload, %.3f on the wire; load %s", strings.Join(each, " "), payload[len(payload)-1], wire[len(wire)-1], strings.TrimSpace(string(load)))
	}
	hideTime(b)
	b.ReportMetric(last.median(), "last-s")
	b.ReportMetric(last.median()/raceBound, "x-bound")
	if payload.median() > 0 {
		b.ReportMetric(payload.median(), "origin-x")
	}
	b.ReportMetric(wire.median(), "origin-wire-x")
	b.ReportMetric(spread.median(), "p99/p50")
	if cpu.median() > 0 {
		b.ReportMetric(cpu.median(), "cpu-s/host")
	}
	for k, v := range extra {
		b.ReportMetric(v.median(), k)
	}
}

func raceLibtorrent(r *race) {
	clientstest.NeedLibtorrent(r.b)
	tr := r.service.Tracker()
	t := clientstest.Make(r.w, clientstest.V2, r.file.Path, 256<<10, tr.URL)
	seed := clientstest.StartLibtorrent(r.w, r.origin, t.Path, t.From, 6881)
	seed.Go()
	r.w.Until(time.Minute, "the seeder has checked its file", func() bool { _, ok := seed.Finished(); return ok })
	var peers []*clientstest.Libtorrent
	var dirs []string
	for _, h := range r.hosts {
		dirs = append(dirs, r.w.Dir("libtorrent"))
		peers = append(peers, clientstest.StartLibtorrent(r.w, h, t.Path, dirs[len(dirs)-1], 6881))
	}
	before := make([]time.Duration, len(peers))
	for i, p := range peers {
		before[i] = e2etest.CPU(p.PID())
	}
	r.fire()
	for _, p := range peers {
		p.Go()
	}
	for i, p := range peers {
		var at time.Time
		for end := r.start.Add(raceLimit); ; time.Sleep(20 * time.Millisecond) {
			var ok bool
			if at, ok = p.Finished(); ok {
				break
			}
			if p.Ended() || time.Now().After(end) {
				r.b.Fatalf("libtorrent on %s has not finished: %s", r.hosts[i].IP, p.Output())
			}
		}
		r.finished = append(r.finished, at.Sub(r.start))
	}
	r.over()
	for i, p := range peers {
		r.cpu += e2etest.CPU(p.PID()) - before[i]
	}
	r.payload = seed.Uploaded()
	for _, d := range dirs {
		sameBytes(r, filepath.Join(d, t.Name))
	}
}

// sameBytes fails the benchmark on wrong bytes.
func sameBytes(r *race, path string) {
	r.b.Helper()
	r.w.MustRead(limit, e2etest.Read{Path: path, Want: r.file.Path})
}

// pantalaRace is what a race of pantala's has besides N equal hosts.
type pantalaRace struct {
	get   bool // each host runs `pantala get`, which leaves when it has finished; else a daemon, which stays
	slow  bool // one host sends at a tenth of the rate
	kill  bool // one host is killed half-way
	liar  bool // one more host has everything, and sends all of it wrong
	nginx bool // the origin is a web server
	lazy  int  // so many hosts do not download: they read 4 KiB here and there through a mount
}

// raceStatus is what the race reads of `pantala status -o json` and `pantala share -o json`.
type raceStatus struct {
	Shares []struct {
		Uploaded   int64 `json:"uploaded"`
		FromPeers  int64 `json:"from_peers"`
		FromOrigin int64 `json:"from_origin"`
	} `json:"shares"`
	Magnet string `json:"magnet"`
}

func racePantala(r *race, v pantalaRace) {
	b, w := r.b, r.w
	tr := r.service.Tracker()
	var source string
	called := filepath.Base(r.file.Path) // what the file is called in a mount
	var seed *e2etest.Node
	var ng *e2etest.Nginx
	if v.nginx {
		ng = r.origin.Nginx()
		source, called = ng.Serve(r.file, name), name
	} else {
		seed = r.origin.Node("seed", "--tracker", tr.URL)
		var said raceStatus
		if out := seed.Must("share", "-o", "json", r.file.Path); json.Unmarshal([]byte(out.Stdout), &said) != nil || said.Magnet == "" {
			b.Fatalf("share does not print a magnet link as JSON: %v", out)
		}
		source = said.Magnet
	}
	var liar *e2etest.Liar
	if v.liar {
		h := r.service // uncapped: the worst that a liar can be
		liar = h.Liar(tr.URL)
		h.Node("liar", "--tracker", liar.Tracker).Must("share", r.file.Path)
	}
	var nodes []*e2etest.Node
	var daemons []*e2etest.Process
	for i, h := range r.hosts {
		n := h.Node(fmt.Sprintf("n%d", i+1), "--tracker", tr.URL)
		if os.Getenv("BENCH_DEBUG") != "" {
			n.Flags = append(n.Flags, "--log-level", "debug")
		}
		nodes = append(nodes, n)
		if !v.get {
			daemons = append(daemons, n.Start("daemon"))
		}
	}
	if !v.get {
		w.Until(time.Minute, "all daemons listen", func() bool {
			return !slices.ContainsFunc(r.hosts, func(h *e2etest.Host) bool { return !h.Listening(6881) })
		})
	}
	if v.slow {
		r.hosts[len(r.hosts)/2].Cap(fmt.Sprintf("%dkbit", raceMbit*100))
	}
	defer keepLogs(b, nodes, daemons, seed)
	defer r.watch()()
	cpu := func() (sum time.Duration) {
		for _, n := range nodes {
			for _, pid := range n.PIDs() {
				sum += e2etest.CPU(pid)
			}
		}
		return sum
	}
	before := cpu()
	bulk := nodes[:len(nodes)-v.lazy]
	lazy := r.hosts[len(bulk):]
	r.fire()
	var readers, fetching []*e2etest.Process
	var trips *prober
	for i, n := range nodes[len(bulk):] {
		dir := w.Dir("lazy")
		n.MountAt(dir, source, "--fill", "never")
		path := filepath.Join(dir, called)
		// 8 s of the 14 that the bulk takes at best.
		readers = append(readers, w.Reader(e2etest.Read{Path: path, Want: r.file.Path, Block: 4096, Random: 400, Pause: 20, Seed: uint64(i)}))
	}
	if v.lazy > 0 {
		trips = probe(w, lazy, append([]*e2etest.Host{r.origin, r.service}, r.hosts[:len(bulk)]...), func(i int) bool { return readers[i].Ended() })
	}
	outs := make([]string, len(bulk))
	for i, n := range bulk {
		if v.get {
			outs[i] = filepath.Join(w.Dir("get"), "out")
			fetching = append(fetching, n.Start("get", "-q", "-O", outs[i], source))
		} else {
			fetching = append(fetching, n.Start("share", "-q", source))
		}
	}
	victim := -1
	if v.kill {
		victim = len(bulk) / 2
		time.Sleep(time.Until(r.start.Add(time.Duration(raceBound / 2 * float64(time.Second)))))
		nodes[victim].Kill()
		b.Logf("killed %s after %.2f s", r.hosts[victim].IP, time.Since(r.start).Seconds())
	}
	for i, p := range fetching {
		res := p.Wait(time.Until(r.start.Add(raceLimit)))
		if i == victim {
			continue
		}
		if res.Code != 0 {
			b.Fatalf("%s: %v", r.hosts[i].IP, res)
		}
		r.finished = append(r.finished, p.EndedAt().Sub(r.start))
	}
	r.over()
	r.cpu = cpu() - before
	if v.nginx {
		defer func() { ng.Stop(); r.payload = ng.Sent() }()
	} else {
		var s raceStatus
		if out := seed.Must("status", "-o", "json"); json.Unmarshal([]byte(out.Stdout), &s) != nil || len(s.Shares) == 0 {
			b.Fatalf("status shows no share: %v", out)
		}
		r.payload = s.Shares[0].Uploaded
	}
	if trips != nil {
		trips.end()
	}
	for i, p := range readers {
		found, _ := w.ReadResult(p, limit)
		found.MustBeRight(w)
		n := nodes[len(bulk)+i]
		rtt, p99 := trips.path(lazy[i], n), found.P99/1e3
		goal := 3*rtt + blockTime
		b.Logf("reader %s: p50 %.1f ms, p99 %.1f ms; its round trip %.1f ms, to an idle host p50 %.1f ms, p99 %.1f ms; goal %.1f ms", lazy[i].IP, found.P50/1e3, p99,
			rtt, trips.at(lazy[i], r.service, 50), trips.at(lazy[i], r.service, 99), goal)
		for name, x := range map[string]float64{
			"lazy-p50-ms": found.P50 / 1e3, "lazy-p99-ms": p99, "lazy-rtt-ms": rtt, "lazy-p99-x": p99 / goal, "idle-rtt-p99-ms": trips.at(lazy[i], r.service, 99),
		} {
			r.extra[name] = max(r.extra[name], x)
		}
	}
	if liar != nil {
		r.extra["lies"] = float64(liar.Lies.Load())
	}
	for i, n := range bulk {
		switch {
		case i == victim:
		case v.get:
			sameBytes(r, outs[i])
		default:
			dir := w.Dir("mnt")
			n.MountAt(dir, source)
			sameBytes(r, filepath.Join(dir, called))
		}
	}
}

// keepLogs copies what the nodes have logged, and what they say of themselves, to BENCH_LOGS.
func keepLogs(b *testing.B, nodes []*e2etest.Node, daemons []*e2etest.Process, seed *e2etest.Node) {
	dir := os.Getenv("BENCH_LOGS")
	if dir == "" {
		return
	}
	for i, n := range append(slices.Clone(nodes), seed) {
		if n == nil || len(n.PIDs()) == 0 {
			continue
		}
		to := filepath.Join(dir, strings.ReplaceAll(b.Name(), "/", "_"), fmt.Sprintf("%02d", i+1))
		if err := os.MkdirAll(to, 0o755); err != nil {
			b.Log(err)
			return
		}
		os.WriteFile(filepath.Join(to, "status.json"), []byte(n.Run("status", "-o", "json").Stdout), 0o644)
		log, _ := os.ReadFile(filepath.Join(n.State, "daemon.log"))
		if i < len(daemons) {
			log = []byte(daemons[i].Output())
		}
		os.WriteFile(filepath.Join(to, "daemon.log"), log, 0o644)
	}
}

// watch writes what each host sends, in Mbit/s of every quarter of a second, to wire.log in BENCH_LOGS, the origin
// first. The function that it returns ends it.
func (r *race) watch() (stop func()) {
	dir := os.Getenv("BENCH_LOGS")
	if dir == "" {
		return func() {}
	}
	hosts := append([]*e2etest.Host{r.origin}, r.hosts...)
	quit, ended := make(chan struct{}), make(chan struct{})
	var text strings.Builder
	go func() {
		defer close(ended)
		const every = 250 * time.Millisecond
		tick := time.NewTicker(every)
		defer tick.Stop()
		last := make([]int64, len(hosts))
		at := time.Now()
		for {
			now := time.Now()
			fmt.Fprintf(&text, "%s", now.UTC().Format("15:04:05.000"))
			for i, h := range hosts {
				sent, _ := h.Wire()
				fmt.Fprintf(&text, " %5.1f", float64(sent-last[i])*8e-6/max(now.Sub(at).Seconds(), 1e-3))
				last[i] = sent
			}
			text.WriteString("\n")
			at = now
			select {
			case <-quit:
				return
			case <-tick.C:
			}
		}
	}()
	return func() {
		close(quit)
		<-ended
		to := filepath.Join(dir, strings.ReplaceAll(r.b.Name(), "/", "_"))
		os.MkdirAll(to, 0o755)
		os.WriteFile(filepath.Join(to, "wire.log"), []byte(text.String()), 0o644)
	}
}

func raceAria2(r *race) {
	clientstest.NeedLibtorrent(r.b) // makes the torrent
	tr := r.service.Tracker()
	t := clientstest.Make(r.w, clientstest.V1, r.file.Path, 256<<10, tr.URL)
	clientstest.Aria2(r.w, r.origin, t, t.From, true)
	r.w.Until(time.Minute, "the seeder listens", func() bool { return r.origin.Listening(6881) })
	time.Sleep(2 * time.Second) // it announces itself when it has checked the file, and says nothing
	var peers []*e2etest.Process
	var dirs []string
	r.fire()
	for _, h := range r.hosts {
		dirs = append(dirs, r.w.Dir("aria2"))
		peers = append(peers, clientstest.Aria2(r.w, h, t, dirs[len(dirs)-1], false))
	}
	for i, p := range peers {
		for end := r.start.Add(raceLimit); !clientstest.Aria2Finished(p); time.Sleep(20 * time.Millisecond) {
			if p.Ended() || time.Now().After(end) {
				r.b.Fatalf("aria2 on %s has not finished: %s", r.hosts[i].IP, p.Output())
			}
		}
		r.finished = append(r.finished, time.Since(r.start))
	}
	r.over()
	for i, p := range peers {
		r.cpu += e2etest.CPU(p.PID())
		p.Signal(15)
		p.Wait(10 * time.Second)
		sameBytes(r, filepath.Join(dirs[i], t.Name))
	}
}
