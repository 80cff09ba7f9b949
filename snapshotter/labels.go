package snapshotter

import (
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/snapshotters"
	"github.com/containerd/errdefs"
)

// Labels of a lazy snapshot that are ours. They begin as containerd's own do, because it drops others. They are believed,
// so none is taken from outside.
const (
	labelPrefix   = "containerd.io/snapshot/pantala."
	labelRef      = labelPrefix + "ref"      // Image.Ref
	labelManifest = labelPrefix + "manifest" // Image.Manifest
	labelDepth    = labelPrefix + "depth"    // how many layers its tree has
	labelLower    = labelPrefix + "lower"    // where the tree was mounted last; absent when it never was
)

// imageOf is the image that containerd says a layer belongs to; ok when it says so.
func imageOf(labels map[string]string) (i Image, ok bool) {
	i = Image{Ref: labels[snapshotters.TargetRefLabel], Manifest: labels[snapshotters.TargetManifestDigestLabel]}
	return i, i.Ref != "" && i.Manifest != ""
}

// lazy is what is known of a lazy snapshot.
type lazy struct {
	image Image
	depth int
	lower string
}

// lazyOf reads our labels; ok is false for ordinary snapshots.
func lazyOf(labels map[string]string) (l lazy, ok bool) {
	depth, err := strconv.Atoi(labels[labelDepth])
	if err != nil || depth < 1 {
		return lazy{}, false
	}
	return lazy{Image{labels[labelRef], labels[labelManifest]}, depth, labels[labelLower]}, true
}

// labels are the labels of l.
func (l lazy) labels() map[string]string {
	m := map[string]string{labelRef: l.image.Ref, labelManifest: l.image.Manifest, labelDepth: strconv.Itoa(l.depth)}
	if l.lower != "" {
		m[labelLower] = l.lower
	}
	return m
}

// asked is what the caller wants a snapshot to have, without labels that are ours to give.
func asked(opts []snapshots.Opt) (info snapshots.Info, err error) {
	for _, o := range opts {
		if err := o(&info); err != nil {
			return info, fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
		}
	}
	info.Labels = foreign(info.Labels)
	return info, nil
}

// foreign are the labels that are not ours.
func foreign(labels map[string]string) map[string]string {
	if labels == nil {
		return nil
	}
	labels = maps.Clone(labels)
	maps.DeleteFunc(labels, func(k, _ string) bool { return strings.HasPrefix(k, labelPrefix) })
	return labels
}

// again makes options of info.
func again(info snapshots.Info) (opts []snapshots.Opt) {
	if info.Labels != nil {
		opts = append(opts, snapshots.WithLabels(info.Labels))
	}
	if info.Parent != "" {
		opts = append(opts, snapshots.WithParent(info.Parent))
	}
	return opts
}
