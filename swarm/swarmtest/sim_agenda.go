package swarmtest

// kind says what happens.
type kind uint8

const (
	evSent     kind = iota // an uplink has sent a part
	evArrive               // a part has arrived
	evKick                 // an uplink looks for something to send
	evOpen                 // a connection is up, or could not be made
	evClosed               // one end hears that the other is gone
	evTick                 // a node's own clock
	evSpeak                // a node may have something to say to the tracker
	evAsked                // a request reaches the tracker
	evAnswered             // an answer reaches a node
	evFailed               // a node learns that there will be no answer
	evRing                 // a poll that the tracker holds may be due
	evHangup               // the tracker learns that the process of a node is gone
	evRead                 // a reader wants a block, or has waited for one
	evChoke                // a node decides whom it serves
	evTracker              // the tracker's own clock
	evHole                 // a node notices that it has lost a part
	evScript               // something that the scenario prescribes
)

// event is something that happens at a time, in nanoseconds from the start.
type event struct {
	at   int64
	seq  uint32 // keeps the order of what happens at the same time
	kind kind
	who  int32
	arg  int32
	conn *conn
	req  request
	any  any
}

// agenda is a heap of events, four children to a node: they are popped far more often than compared.
type agenda struct {
	events []event
	seq    uint32
}

func (a *agenda) less(x, y *event) bool {
	return x.at < y.at || x.at == y.at && int32(x.seq-y.seq) < 0
}

func (a *agenda) push(e event) {
	a.seq++
	e.seq = a.seq
	a.events = append(a.events, e)
	i := len(a.events) - 1
	for i > 0 {
		up := (i - 1) / 4
		if !a.less(&a.events[i], &a.events[up]) {
			break
		}
		a.events[i], a.events[up] = a.events[up], a.events[i]
		i = up
	}
}

func (a *agenda) pop() event {
	top := a.events[0]
	last := len(a.events) - 1
	a.events[0] = a.events[last]
	a.events[last] = event{}
	a.events = a.events[:last]
	for i := 0; ; {
		best := i
		for c := 4*i + 1; c <= 4*i+4 && c < last; c++ {
			if a.less(&a.events[c], &a.events[best]) {
				best = c
			}
		}
		if best == i {
			return top
		}
		a.events[i], a.events[best] = a.events[best], a.events[i]
		i = best
	}
}
