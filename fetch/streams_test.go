package fetch

import "testing"

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
