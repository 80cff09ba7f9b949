package fetch

import (
	"math/rand/v2"
	"testing"
)

func TestStreams(t *testing.T) {
	const size = 1 << 30
	type step struct{ off, n int64 }
	seq := func(from, n int64, count int) (s []step) {
		for range count {
			s = append(s, step{from, n})
			from += n
		}
		return s
	}
	var strided []step
	for i := range int64(8) {
		strided = append(strided, step{10<<20 + i*(3<<20), 4096})
	}
	var interleaved []step
	for i := range int64(6) {
		interleaved = append(interleaved, step{i << 17, 1 << 17}, step{512<<20 + i<<17, 1 << 17})
	}
	for _, c := range []struct {
		name  string
		steps []step
		want  []extent // must be covered by what is fetched ahead
		most  int64    // bytes ahead at the most
	}{
		{"random", []step{{5 << 20, 4096}, {700 << 20, 4096}, {90 << 20, 4096}, {300 << 20, 4096}, {41 << 20, 4096}}, nil, 0},
		{"one read", seq(0, 131072, 1), nil, 0},
		{"sequential", seq(0, 131072, 8), []extent{{1 << 20, 8 << 20}}, maxWindow},
		{"sequential at the end", seq(size-4<<17, 131072, 3), []extent{{size - 1<<17, size}}, 1 << 17},
		{"strided", strided, []extent{{34 << 20, 34<<20 + 4096}, {37 << 20, 37<<20 + 4096}}, maxStrideAhead * 4096},
		{"two readers", interleaved, []extent{{6 << 17, 4 << 20}, {512<<20 + 6<<17, 516 << 20}}, 2 * maxWindow},
	} {
		t.Run(c.name, func(t *testing.T) {
			var s streams
			for _, r := range c.steps {
				s.note(r.off, r.n)
			}
			got := s.extents(nil, size)
			var total int64
			for _, x := range got {
				total += x.end - x.off
			}
			if total > c.most {
				t.Errorf("%d bytes ahead, want ≤ %d: %v", total, c.most, got)
			}
			for _, w := range c.want {
				ok := false
				for _, x := range got {
					ok = ok || x.off <= w.off && w.end <= x.end
				}
				if !ok {
					t.Errorf("%v is not fetched ahead: %v", w, got)
				}
			}
		})
	}
}

func TestStreamsForgetTheOldest(t *testing.T) {
	var s streams
	for i := range int64(10 * maxStreams) {
		s.note(i*(100<<20), 4096)
		s.note(i*(100<<20)+4096, 4096) // each is sequential
	}
	if len(s.live) > maxStreams {
		t.Errorf("%d streams are followed", len(s.live))
	}
	if s.follows(10*maxStreams*(100<<20)-100<<20+8192) == 0 {
		t.Error("the newest stream is not followed")
	}
}

// TestStreamsOfARandomReader: reads that happen to fall beside earlier ones do not make a reader sequential enough
// for large windows.
func TestStreamsOfARandomReader(t *testing.T) {
	const size, reads = 256 << 20, 4000
	rng := rand.New(rand.NewPCG(1, 2))
	var s streams
	asked := make([]bool, size/(16<<10))
	var ahead int
	for range reads {
		s.note(rng.Int64N(size/4096)*4096, 4096)
		for _, x := range s.extents(nil, size) {
			for i := x.off >> 14; i < (x.end+16<<10-1)>>14; i++ {
				if !asked[i] {
					asked[i] = true
					ahead++
				}
			}
		}
	}
	if ahead > reads/4 {
		t.Errorf("%d blocks were read ahead of %d random reads", ahead, reads)
	}
}

// TestStreamsStrideSurvivesRereading: a read that had to wait is noted twice, when it is parked and when it is
// answered.
func TestStreamsStrideSurvivesRereading(t *testing.T) {
	var s streams
	for i := range int64(6) {
		for range 2 {
			s.note(10<<20+i*(3<<20), 4096)
		}
	}
	if got := s.extents(nil, 1<<30); len(got) == 0 || got[0].off != 28<<20 {
		t.Errorf("a strided reader is not followed: %v", got)
	}
}
