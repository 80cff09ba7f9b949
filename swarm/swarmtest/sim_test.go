package swarmtest

import (
	"flag"
	"testing"
)

var seed = flag.Uint64("seed", 1, "seed of the simulations, to repeat one")

func run(t *testing.T, c SimConfig) SimResult {
	t.Helper()
	c.Seed = *seed
	r := NewSim(c).Run()
	t.Logf("seed %d: %s", c.Seed, r)
	return r
}

func TestCold(t *testing.T) {
	for _, n := range []int{1, 8, 16, 32, 100} {
		run(t, SimConfig{Nodes: n})
	}
}
