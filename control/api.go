package control

import (
	"context"
	"net/http"
	"time"

	"github.com/pantala/pantala/blob"
)

// Node is what a running node does for a command.
//
// All methods are safe for concurrent use and end soon after ctx ended; ctx ends when the command that asked
// is gone.
type Node interface {
	// Mount returns when the mount answers. When it fails nothing stays mounted.
	Mount(ctx context.Context, r MountRequest) (MountReply, error)
	// Unmount returns when the directory is no longer a mount. force detaches it even when it is in use.
	Unmount(ctx context.Context, dir string, force bool) error
	// Status is a snapshot.
	Status(ctx context.Context) (Status, error)
	// Share makes a local file, or a URL's object, available to others. progress is called now and then from
	// one goroutine, until Share returns.
	Share(ctx context.Context, r ShareRequest, progress func(Progress)) (ShareReply, error)
	// Unshare takes back what Share did. name is an id, a path or a URL.
	Unshare(ctx context.Context, name string) error
	Cache
	Profiles
	Images
	// Limits changes what the request names, and says what holds then.
	Limits(ctx context.Context, r LimitsRequest) (Limits, error)
	// Stop makes the node end soon after it returned. With idle set it does so only when nothing is mounted
	// or shared and no request for either is under way, and says whether it will.
	Stop(ctx context.Context, idle bool) (stopping bool, err error)
}

// Cache is the part of a [Node] that looks after cached blobs. name is an id, an unambiguous beginning of
// the hexadecimal part of one, a source, or a file name.
type Cache interface {
	CacheList(ctx context.Context) ([]Cached, error)
	CacheStat(ctx context.Context, name string) (Cached, error)
	CachePin(ctx context.Context, name string, on bool) (Cached, error)
	CacheRemove(ctx context.Context, name string) (Cached, error)
	// CacheGC evicts until free more bytes would fit, and returns the bytes it freed.
	CacheGC(ctx context.Context, free int64) (int64, error)
}

// Profiles is the part of a [Node] that looks after the orders in which images are read when they start. image is a
// reference, or the digest of a manifest, or an unambiguous beginning of one.
type Profiles interface {
	// ProfileList is all that is kept, the image that was started last first, without Data.
	ProfileList(ctx context.Context) ([]Profile, error)
	ProfileGet(ctx context.Context, image string) (Profile, error)
	// ProfilePut keeps a profile in place of what was recorded here; what is recorded later is merged with it.
	ProfilePut(ctx context.Context, image string, data []byte) (Profile, error)
}

// Profile is in which order an image is read when it starts.
type Profile struct {
	Image  string    `json:"image"` // the digest of its manifest
	Refs   []string  `json:"refs"`  // by which it was started, the last one first
	Starts int       `json:"starts"`
	Spans  int       `json:"spans"`
	Used   time.Time `json:"used"`           // when it was recorded last
	Data   []byte    `json:"data,omitempty"` // as image/profile writes it
}

// Options say how one blob is fetched. The zero value of a field leaves the node's own setting.
type Options struct {
	Header   http.Header   `json:"header,omitempty"` // extra request headers; secrets, never logged
	Digest   string        `json:"digest,omitempty"` // "sha256:<hex>" that the whole must have
	Fill     string        `json:"fill,omitempty"`
	Timeout  time.Duration `json:"timeout,omitempty"` // nanoseconds
	Hard     bool          `json:"hard,omitempty"`
	Strict   bool          `json:"strict,omitempty"`
	CACert   string        `json:"cacert,omitempty"`
	Mirrors  []string      `json:"mirrors,omitempty"`
	Trackers []string      `json:"trackers,omitempty"`
	// LimitRate bounds the bytes per second that come, and those that go; 0 does not.
	LimitRate int64  `json:"limit_rate,omitempty"`
	Tenant    string `json:"tenant,omitempty"` // whose limits it counts against besides the node's
}

// Rates are bytes per second; 0: no limit.
type Rates struct {
	Upload   int64 `json:"upload"`
	Download int64 `json:"download"`
	Origin   int64 `json:"origin"`
}

// LimitsRequest changes rates of the whole node, or of one tenant or class; nil: as it is.
type LimitsRequest struct {
	Tenant   string `json:"tenant,omitempty"`
	Class    string `json:"class,omitempty"` // as blob.Class has it
	Upload   *int64 `json:"upload,omitempty"`
	Download *int64 `json:"download,omitempty"`
	Origin   *int64 `json:"origin,omitempty"`
}

// Limits are the rates of the whole node, and those of its tenants by name, and of classes that have any.
type Limits struct {
	Rates
	Tenants map[string]Rates `json:"tenants"`
	Classes map[string]Rates `json:"classes"`
}

// MountRequest asks for SOURCE at DIR.
type MountRequest struct {
	Source string `json:"source"`
	Dir    string `json:"dir"` // absolute
	Options
	AsFile        bool  `json:"as_file,omitempty"`
	AllowOther    *bool `json:"allow_other,omitempty"`
	NoPassthrough bool  `json:"no_passthrough,omitempty"`
	// Platform and ReadWrite are of an image: "os/arch[/variant]" to choose of its index, "" for this machine's; and
	// whether it can be written to, which is forgotten when it is unmounted.
	Platform  string `json:"platform,omitempty"`
	ReadWrite bool   `json:"read_write,omitempty"`
	// Expect are settings of the whole node that the command was given; the node refuses the request when it
	// runs with others.
	Expect []Setting `json:"expect,omitempty"`
}

// Setting is one value of a configuration and where it came from.
type Setting struct {
	Key   string `json:"key"`
	Value string `json:"value"`
	From  string `json:"from"`
}

// MountReply says what is mounted now.
type MountReply struct {
	ID       string   `json:"id"`
	Path     string   `json:"path"`            // of the file, or of the directory of a torrent's
	Files    int      `json:"files,omitempty"` // of a torrent that is a directory
	Size     int64    `json:"size"`
	Present  int64    `json:"present"`
	Warnings []string `json:"warnings,omitempty"`
}

// ShareRequest asks to share a local file (Path, absolute) or an object (URL).
type ShareRequest struct {
	Path string `json:"path,omitempty"`
	URL  string `json:"url,omitempty"`
	Options
	NoWait bool      `json:"no_wait,omitempty"` // URL only: do not wait until it is complete
	Expect []Setting `json:"expect,omitempty"`

	// How a torrent of a Path is made.
	Version     string   `json:"version,omitempty"`      // "v1", "v2" or "hybrid"; "" is v2
	Private     bool     `json:"private,omitempty"`      // BEP 27
	PieceLength int64    `json:"piece_length,omitempty"` // bytes; 0: by size
	WebSeeds    []string `json:"web_seeds,omitempty"`    // BEP 19
	WantTorrent bool     `json:"want_torrent,omitempty"` // ShareReply.Torrent is wanted
	// From is where the files are that the torrent URL describes, absolute; "": they are downloaded.
	From string `json:"from,omitempty"`
}

// Progress is how far a long request is, in bytes.
type Progress struct {
	What      string `json:"what"` // "hashing", "downloading"
	Done      int64  `json:"done"`
	Total     int64  `json:"total"` // -1: not known
	FromPeers int64  `json:"from_peers"`
}

// ShareReply says under which names others find the blob. Digest and Magnet are empty as long as not all
// bytes are known.
type ShareReply struct {
	ID       string `json:"id"`
	Name     string `json:"name"`
	Size     int64  `json:"size"`
	Digest   string `json:"digest,omitempty"`
	InfoHash string `json:"infohash,omitempty"` // v2
	// InfoHashV1 is of v1 and hybrid torrents.
	InfoHashV1 string   `json:"infohash_v1,omitempty"`
	Files      int      `json:"files,omitempty"` // of a torrent that is a directory
	Magnet     string   `json:"magnet,omitempty"`
	Source     string   `json:"source"` // what `pantala mount` takes on another machine
	Torrent    []byte   `json:"torrent_data,omitempty"`
	Warnings   []string `json:"warnings,omitempty"`
}

// Status is a snapshot of a node. PID is 0 when none runs.
type Status struct {
	PID      int       `json:"pid"`
	Version  string    `json:"version,omitempty"`
	State    string    `json:"state,omitempty"`
	Listen   string    `json:"listen,omitempty"` // the address that peers reach
	Zone     string    `json:"zone,omitempty"`   // where it says that it stands
	Started  time.Time `json:"started,omitzero"`
	Mounts   []Mount   `json:"mounts"`
	Shares   []Share   `json:"shares"`
	Peers    []Peer    `json:"peers"`
	Trackers []Tracker `json:"trackers"`
	Cache    *Usage    `json:"cache,omitempty"`
}

// Transfer is where the bytes of one blob came from and how it is read; byte counts are since the blob was
// opened by this process.
type Transfer struct {
	ID         string `json:"id"`
	Size       int64  `json:"size"`
	Present    int64  `json:"present"`
	Complete   bool   `json:"complete"`
	FromPeers  int64  `json:"from_peers"`
	FromOrigin int64  `json:"from_origin"`
	Uploaded   int64  `json:"uploaded"`
	Waiting    int    `json:"waiting"` // reads that wait for bytes
	Errors     int64  `json:"errors"`  // reads that failed
	LastError  string `json:"last_error,omitempty"`
	Peers      int    `json:"peers"`
}

// Mount is one mounted blob.
type Mount struct {
	Source string `json:"source"`
	Dir    string `json:"dir"`
	Name   string `json:"name"`
	State  string `json:"state"`           // "ready", "failed"
	Files  int    `json:"files,omitempty"` // of a torrent that is a directory
	Fill   string `json:"fill"`
	Transfer
	Requests    uint64 `json:"requests"`    // that the kernel sent
	Passthrough uint64 `json:"passthrough"` // opens that the kernel serves itself
	Digest      string `json:"digest,omitempty"`
}

// Share is one shared blob.
type Share struct {
	Source string `json:"source"`
	Name   string `json:"name"`
	Files  int    `json:"files,omitempty"` // of a torrent that is a directory
	Digest string `json:"digest,omitempty"`
	Magnet string `json:"magnet,omitempty"`
	Transfer
}

// Peer is another node that this one is connected to, for one blob.
type Peer struct {
	Addr       string `json:"addr"`
	Client     string `json:"client"`
	Blob       string `json:"blob"`
	Downloaded int64  `json:"downloaded"`
	Uploaded   int64  `json:"uploaded"`
	Rate       int64  `json:"rate"`   // bytes per second, from it
	Pieces     uint32 `json:"pieces"` // that it has
	Banned     bool   `json:"banned"`
}

// Tracker is how one tracker answers for one blob.
type Tracker struct {
	URL       string `json:"url"`
	Blob      string `json:"blob"`
	State     string `json:"state"`
	Peers     int    `json:"peers"`
	Nodes     int    `json:"nodes"`  // live nodes of the swarm, this one included
	Leases    int    `json:"leases"` // pieces that this node reads from the origin for all
	Zone      string `json:"zone,omitempty"`
	Alone     bool   `json:"alone,omitempty"` // it shares its state with other trackers, and cannot reach it
	Tree      *Tree  `json:"tree,omitempty"`  // absent: it plans nothing, or nothing is needed
	LastError string `json:"last_error,omitempty"`
}

// Tree is this node's place in the relay trees of a blob.
type Tree struct {
	Head    []int      `json:"head"`    // stripes that this node reads from the source
	Parents [][]string `json:"parents"` // addresses, of each stripe, best first
}

// Usage is how full the cache is, in bytes.
type Usage struct {
	Bytes int64 `json:"bytes"`
	Quota int64 `json:"quota"` // 0: none
	Free  int64 `json:"free"`  // on the disk
	Blobs int   `json:"blobs"`
}

// Cached is one blob in the cache.
type Cached struct {
	ID        string    `json:"id"`
	Source    string    `json:"source"`
	Name      string    `json:"name"`
	Validator string    `json:"validator,omitempty"`
	Size      int64     `json:"size"`
	Present   int64     `json:"present"`
	Allocated int64     `json:"allocated"`
	Complete  bool      `json:"complete"`
	Pinned    bool      `json:"pinned"`
	Open      bool      `json:"open"` // mounted or shared now
	Used      time.Time `json:"used"`
}

// Blob parses the id.
func (c Cached) Blob() (blob.ID, error) { return blob.ParseID(c.ID) }
