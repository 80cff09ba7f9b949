package tree

// pages is a growing list whose elements stay where they are: nothing is copied as it grows, and no more than a page
// is left over. It is as long as what has been added, and never shrinks.
type pages[T any] struct {
	all [][]T
	n   uint32
}

const (
	pageBits = 13
	pageSize = 1 << pageBits // elements: 450 KiB of inodes
)

func (p *pages[T]) at(i uint32) *T { return &p.all[i>>pageBits][i&(pageSize-1)] }

// add appends v and returns its number.
func (p *pages[T]) add(v T) uint32 {
	if p.n&(pageSize-1) == 0 {
		p.all = append(p.all, make([]T, 0, pageSize))
	}
	last := len(p.all) - 1
	p.all[last] = append(p.all[last], v)
	p.n++
	return p.n - 1
}
