package relay

import (
	"time"

	"github.com/pantala/pantala/blob"
)

// NodeID is the peer id of a node (BEP 3).
type NodeID [20]byte

// DefaultStripes is the number of stripes of a swarm: with two, a node that passes one stripe on to two others
// sends as much as it receives.
const DefaultStripes = 2

// MaxStripes bounds what a tracker may ask for.
const MaxStripes = 8

// Unit is how many consecutive pieces belong to one stripe before the next one's turn: as many as make a
// transfer buffer ([blob.MaxBuffer] blocks), at least one.
func Unit(g blob.Geometry) uint32 { return max(1, blob.MaxBuffer/g.BlocksPerPiece()) }

// Stripe is the stripe of a piece when there are k.
func Stripe(g blob.Geometry, piece uint32, k int) int {
	return int(piece / Unit(g) % uint32(max(1, k)))
}

// Member is what the planner knows of a node.
type Member struct {
	ID NodeID
	// Zone says where it stands, the most significant part first, as in "eu/zone-a/rack-7/host-3". Nodes with a
	// longer common prefix are nearer.
	Zone string
	// Source: it has everything (a seeder, or a node that has finished). It gives and takes nothing.
	Source bool
	// Bulk: it wants all of the blob and passes it on. A node that only reads here and there takes no part.
	Bulk bool
	// Up is how many bytes per second it can send: configured, or measured while more was asked of it than it
	// could send. 0: not known.
	Up int64
	// Prefer it as a head: it was set up to read from the origin for others.
	Prefer bool
}

// Parent is one node that a stripe can be taken from.
type Parent struct {
	ID   NodeID
	Rate int64 // bytes per second granted; 0: whatever there is; LastResort: when nobody else is left
}

// LastResort is the rate granted by the one source that every byte is a loss to.
const LastResort = 1

// Assignment is what one node is told. Its zero value says: there is no plan, ask whom you like.
type Assignment struct {
	Gen     int64
	Stripes int // 0: no plan
	// Parents of each stripe, best first; the first one has this node counted in, the others are for when it
	// fails. Empty for a stripe of which this node is the head: it reads that from the source, and only that.
	Parents [][]Parent
	// Head: bit s is set when this node reads stripe s from the source. When the source is a peer it is in Parents.
	Head uint8
}

// Reason says what is wrong with a parent.
type Reason uint8

const (
	Lost Reason = iota + 1 // the connection broke or could not be made
	Slow                   // others have long had what it still owes
	Liar                   // it sent bytes that did not verify
)

// Complaint is what a child tells the tracker about a parent.
type Complaint struct {
	Parent NodeID
	Stripe int
	Reason Reason
	Rate   int64 // bytes per second that came from it lately
}

// Watermark is how far a node has one stripe: all its pieces below Piece are complete.
type Watermark struct {
	Stripe int
	Piece  uint32
}

// PlannerOptions configure a Planner; the zero value is good.
type PlannerOptions struct {
	Stripes int           // 0: DefaultStripes
	Stall   time.Duration // how long a head may stand still before another becomes head; 0: 1.5 s
}

// The methods of the two state machines, for whoever builds on them before reading planner.go and picker.go:
//
//	func NewPlanner(g blob.Geometry, o PlannerOptions) *Planner
//	func (p *Planner) Put(now time.Time, m Member)                  // joins, or is described anew
//	func (p *Planner) Remove(now time.Time, id NodeID)
//	func (p *Planner) OriginIsSource(yes bool)                      // heads read from the origin, by leases
//	func (p *Planner) Progress(now time.Time, id NodeID, w []Watermark)
//	func (p *Planner) Complain(now time.Time, child NodeID, c Complaint)
//	func (p *Planner) Tick(now time.Time)                           // at least four times a second
//	func (p *Planner) Changed() []NodeID                            // drained: whose assignment differs
//	func (p *Planner) Assignment(id NodeID) Assignment
//	func (p *Planner) Head(stripe int) (NodeID, bool)
//
//	func NewPicker(g blob.Geometry) *Picker
//	func (p *Picker) Alone()                                        // the end of a stripe is asked of the parent only, too
//	func (p *Picker) Assign(now time.Time, a Assignment)
//	func (p *Picker) Connected(now time.Time, id NodeID)            // it is connected and serves us
//	func (p *Picker) Gone(now time.Time, id NodeID, why Reason)
//	func (p *Picker) Has(now time.Time, id NodeID, w Watermark)     // what it told
//	func (p *Picker) Asked(now time.Time, id NodeID, piece uint32, bytes int)
//	func (p *Picker) Came(now time.Time, id NodeID, piece uint32, bytes int)
//	func (p *Picker) Dropped(now time.Time, id NodeID, piece uint32, bytes int) // asked, will not come from there
//	func (p *Picker) From(now time.Time, piece uint32) (id NodeID, ok bool) // whom to ask for it in bulk; ok false: wait
//	func (p *Picker) Planned(piece uint32) bool                     // somebody is to pass it on to us
//	func (p *Picker) Heads(piece uint32) bool                       // we read it from the origin, for others
//	func (p *Picker) Assignment() Assignment                        // what holds
//	func (p *Picker) Room(id NodeID) int                            // bytes that may be asked of it now
//	func (p *Picker) Rate(id NodeID) int64                          // bytes per second that came from it lately
//	func (p *Picker) Part(id NodeID) int                            // blocks to ask for at once: what arrives in about 20 ms
//	func (p *Picker) Tick(now time.Time)                            // at least every 50 ms while anything is asked
//	func (p *Picker) Complaints() []Complaint                       // drained: to be told to the tracker
