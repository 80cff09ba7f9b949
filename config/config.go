package config

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pantala/pantala/blob"
)

// Config is everything that one node is told.
type Config struct {
	State     string        // directory of the cache, the control socket and the log
	Listen    string        // host:port of the peer wire; port 0 takes any free one
	Trackers  []string      // announce URLs, or srv:NAME; none: no swarm but the peers that are named
	Zone      string        // where this machine stands, most significant part first: region/zone/rack/host
	Role      string        // Peer or Seed
	Compress  bool          // what peers of ours send over slow links is compressed
	PEX       bool          // peers are exchanged with peers (BEP 11)
	LSD       string        // On, Off or Auto: discovery on the local network (BEP 14)
	DHT       bool          // the distributed hash table (BEP 5)
	Bootstrap []string      // HOST:PORT of nodes of the DHT to start from
	LogLevel  slog.Level    // least level that is logged
	Fill      string        // "never", "idle" or "eager": how a mounted blob is completed
	Timeout   time.Duration // how long a read waits for somebody who can deliver
	Hard      bool          // reads wait for ever instead
	Strict    bool          // refuse piece roots that only a tracker vouches for
	CACert    string        // PEM file of certificates that origins may use besides the system's
	Quota     int64         // bytes of cached data, 0: no bound but the disk
	Memory    int64         // bytes of transfer buffers

	UploadLimit   int64 // bytes per second of all uploads; 0: no limit
	DownloadLimit int64 // of all downloads
	OriginLimit   int64 // of what comes from origins
	Tenants       map[string]Rates
	Classes       map[string]Rates // by blob.Class

	Snapshotter   string   // path of the socket on which containerd's snapshotter is served; "": none
	CertsDir      string   // directories of hosts.toml files, by registry, separated by colons; "": those of containerd and docker
	PlainHTTP     []string // HOST[:PORT] of registries that are spoken to without TLS; those on this machine always are
	MaxLayerSize  int64    // bytes that a layer may have uncompressed; 0: what image/build says
	MaxLayerRatio int64    // uncompressed bytes for each compressed one; 0: the same
	DockerConfig  string   // directory of docker's config.json; "": as docker finds it
	ImageMount    string   // Auto, or the only way in which images may be mounted: Devices, Loop or Files
	IndexKeys     []string // files of public keys whose signatures of indexes in registries are believed; none: no such index is used

	AllowOther  bool // other users may read the mounts
	Passthrough bool // complete blobs are read through the kernel's FUSE passthrough

	from map[string]string
	file string
}

// What a node can be in a swarm.
const (
	Peer = "peer"
	Seed = "seed" // completes everything, and reads from the origin for others
)

// Rates are bytes per second that one tenant, or one class, may move; 0: no limit.
type Rates struct{ Upload, Download, Origin int64 }

// Whether to look for peers on the local network. Auto: when peers from elsewhere can connect.
const (
	On   = "on"
	Off  = "off"
	Auto = "auto"
)

// How images are mounted, best first.
const (
	Devices = "devices" // by the kernel's EROFS, over a file for each layer (Linux 6.12)
	Loop    = "loop"    // by the kernel's EROFS, through a loop device over one file
	Files   = "files"   // by this process, which answers for each name
)

// DefaultMemory is the bound of transfer buffers in bytes: 256 transfers of blob.MaxBuffer blocks at once,
// which fills a 10 Gbit/s link up to a round trip of 50 ms and leaves room in a 256 MiB cgroup.
const DefaultMemory = 64 << 20

// From says where the value of a key came from: "flag --listen", "PANTALA_LISTEN", the path of a file, or
// "" for a default.
func (c Config) From(key string) string { return c.from[key] }

// File is the absolute path of the configuration file that was read, "" when there is none.
func (c Config) File() string { return c.file }

// Default is what holds when nobody says anything, for the user with this id and environment.
func Default(uid int, getenv func(string) string) Config {
	return Config{
		State:       stateDir(uid, getenv),
		Listen:      "127.0.0.1:0",
		Compress:    true,
		PEX:         true,
		LSD:         Auto,
		Role:        Peer,
		ImageMount:  Auto,
		LogLevel:    slog.LevelInfo,
		Fill:        "idle",
		Timeout:     blob.DefaultTimeout,
		Memory:      DefaultMemory,
		AllowOther:  uid == 0,
		Passthrough: true,
	}
}

// stateDir follows the file system hierarchy for root and the XDG base directories for everybody else.
func stateDir(uid int, getenv func(string) string) string {
	if uid == 0 {
		return "/var/lib/pantala"
	}
	if d := getenv("XDG_STATE_HOME"); filepath.IsAbs(d) {
		return filepath.Join(d, "pantala")
	}
	if h := getenv("HOME"); h != "" {
		return filepath.Join(h, ".local", "state", "pantala")
	}
	return filepath.Join(os.TempDir(), "pantala-"+strings.TrimSpace(getenv("USER")))
}

// systemFile is read when no other configuration file is named or found.
const systemFile = "/etc/pantala/config.yaml"

// defaultFiles are the configuration files that are looked for when none is named; the first that exists is
// read.
func defaultFiles(uid int, getenv func(string) string) []string {
	if uid == 0 {
		return []string{systemFile}
	}
	dir := getenv("XDG_CONFIG_HOME")
	if !filepath.IsAbs(dir) && getenv("HOME") != "" {
		dir = filepath.Join(getenv("HOME"), ".config")
	}
	if !filepath.IsAbs(dir) {
		return []string{systemFile}
	}
	return []string{filepath.Join(dir, "pantala", "config.yaml"), systemFile}
}
