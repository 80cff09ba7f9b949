package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"

	"github.com/pantala/pantala/blob"
)

const (
	// decisionTime bounds Images.Prepare: two requests to a registry that answers, and more than TCP takes to give
	// up on two addresses. An image whose registry does not answer us becomes ordinary.
	decisionTime = 30 * time.Second

	// remembered is how long a decision holds after it was last asked for: kubelet tries a failed pull again
	// within 5 minutes.
	remembered = 10 * time.Minute
)

// decisions are which images are lazy. All layers of a pull get the same answer; each pull asks anew.
type decisions struct {
	images Images
	log    *slog.Logger

	mu    sync.Mutex
	known map[string]*decision // by manifest; "" is for layers that belong to no known image
}

type decision struct {
	chain []string // chain IDs of its layers; nil when it is not lazy
	keep  bool     // a pull does not ask anew
	used  time.Time
}

func (d *decisions) init(images Images, log *slog.Logger) {
	d.images, d.log, d.known = images, log, map[string]*decision{}
}

// get returns what is known about a manifest, if it still holds.
func (d *decisions) get(manifest string) *decision {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	for m, k := range d.known {
		if now.Sub(k.used) > remembered {
			delete(d.known, m)
		}
	}
	k := d.known[manifest]
	if k != nil {
		k.used = now
	}
	return k
}

func (d *decisions) put(manifest string, k *decision) {
	d.mu.Lock()
	defer d.mu.Unlock()
	k.used = time.Now()
	d.known[manifest] = k
}

// ask says which layer of the image has a chain ID, counted from 1, and whether it is the last one; 0 when the layer
// is to be unpacked. first is the lowest layer of a pull. An error is only that the caller went away.
func (d *decisions) ask(ctx context.Context, image Image, chainID string, first bool) (depth int, last bool, err error) {
	k := d.get(image.Manifest)
	if k == nil || first && !k.keep {
		if k, err = d.decide(ctx, image); err != nil {
			return 0, false, err
		}
	}
	if k.chain == nil {
		return 0, false, nil
	}
	depth = slices.Index(k.chain, chainID) + 1
	if depth == 0 {
		d.log.Warn("a layer is unpacked: the image that its labels name does not have it", "image", image.Ref, "manifest", image.Manifest, "chain", chainID)
	}
	return depth, depth == len(k.chain), nil
}

// decide asks Images.
func (d *decisions) decide(ctx context.Context, image Image) (*decision, error) {
	bounded, cancel := context.WithTimeoutCause(ctx, decisionTime, fmt.Errorf("%w: no answer about %s within %v", blob.ErrUnavailable, image.Ref, decisionTime))
	defer cancel()
	diffIDs, err := d.images.Prepare(bounded, image)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	k := &decision{}
	if err == nil {
		k.chain, err = chainIDs(diffIDs)
	} else if bounded.Err() != nil {
		err = context.Cause(bounded)
	}
	if err != nil {
		d.log.Warn("image is not lazy: it is unpacked as usual", "image", image.Ref, "manifest", image.Manifest, "reason", err)
	}
	d.put(image.Manifest, k)
	return k, nil
}

// chainIDs are the chain IDs of layers (OCI image specification, config.md).
func chainIDs(diffIDs []string) (chain []string, err error) {
	if len(diffIDs) == 0 {
		return nil, fmt.Errorf("%w: the image has no layers", blob.ErrInvalid)
	}
	sums := make([]digest.Digest, len(diffIDs))
	for i, id := range diffIDs {
		if sums[i], err = digest.Parse(id); err != nil {
			return nil, fmt.Errorf("%w: diffID of layer %d: %q: %w", blob.ErrInvalid, i+1, id, err)
		}
	}
	for _, c := range identity.ChainIDs(sums) {
		chain = append(chain, c.String())
	}
	return chain, nil
}

// failed takes note that an image that should have been lazy could not be mounted. Its pull fails. The next pull
// within [remembered] unpacks it, unless that would fail as well: bytes that are wrong are wrong for containerd too.
func (d *decisions) failed(ctx context.Context, image Image, err error) {
	if ctx.Err() != nil {
		return
	}
	next := "the same"
	if !errors.Is(err, blob.ErrCorrupt) && !errors.Is(err, blob.ErrUnavailable) && !errors.Is(err, blob.ErrDenied) {
		d.put(image.Manifest, &decision{keep: true})
		next = "unpacks it as usual"
	}
	d.log.Error("image cannot be mounted: its pull fails", "image", image.Ref, "manifest", image.Manifest, "reason", err, "next_pull", next)
}

// unnamed says once in a while that containerd does not tell images.
func (d *decisions) unnamed() {
	if d.get("") == nil {
		d.put("", &decision{})
		d.log.Warn("layers are unpacked as usual: containerd does not say which image they belong to; run pantala setup containerd (ctr image pull of containerd 1.x never says it: use nerdctl, crictl or the kubelet)")
	}
}
