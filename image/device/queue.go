package device

import (
	"container/heap"

	"github.com/pantala/pantala/blob"
)

// rank orders jobs; the lowest is first.
type rank uint8

const (
	rankFault      rank = iota // somebody is blocked on a page
	rankRead                   // somebody is blocked on more
	rankAhead                  // a sequential reader will want it next
	rankPrefetch               // it was read at this point when others started the image
	rankBackground             // nobody waits
)

// class is in which class the stored bytes of a rank are asked for.
func (r rank) class() blob.Class {
	return [...]blob.Class{blob.Fault, blob.Read, blob.Readahead, blob.Readahead, blob.Background}[r]
}

// rankOf is the rank of a reader of a class.
func rankOf(c blob.Class) rank {
	return [...]rank{rankFault, rankRead, rankAhead, rankBackground}[min(c, blob.Background)]
}

// queue is a heap of jobs: the most urgent first, the oldest of those first. A job is in at most one.
type queue []*job

func (q queue) Len() int { return len(q) }

func (q queue) Less(i, j int) bool {
	if q[i].rank != q[j].rank {
		return q[i].rank < q[j].rank
	}
	return q[i].seq < q[j].seq
}

func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].place, q[j].place = i, j
}

// Push and Pop are for container/heap.
func (q *queue) Push(x any) {
	j := x.(*job)
	j.place, j.in = len(*q), q
	*q = append(*q, j)
}

func (q *queue) Pop() any {
	old := *q
	j := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	j.in = nil
	return j
}

func (q *queue) add(j *job) { heap.Push(q, j) }

// first is the most urgent job, nil when there is none.
func (q queue) first() *job {
	if len(q) == 0 {
		return nil
	}
	return q[0]
}

// leave takes a job out of the queue it is in, if any.
func (j *job) leave() {
	if j.in != nil {
		heap.Remove(j.in, j.place)
	}
}

// moved puts a job whose rank changed in its place.
func (j *job) moved() {
	if j.in != nil {
		heap.Fix(j.in, j.place)
	}
}
