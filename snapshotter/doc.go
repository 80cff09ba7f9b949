// Package snapshotter lets containerd boot images that are not here yet: a proxy snapshotter
// (containerd.services.snapshots.v1 on a unix socket) that answers "that layer is already unpacked" for each
// layer of an image, and gives a container ONE lower directory, the merged tree of all layers, whose bytes
// come when they are read.
//
// What cannot be lazy is unpacked by containerd into ordinary overlay snapshots below our root, and the reason is
// logged. Both kinds mix freely in a chain of parents. The lower directories of a snapshot are found from the top:
// the directories of ordinary ancestors until the first lazy one, whose merged tree stands for itself and for
// everything below it. So a container may be started from a layer in the middle of an image, an image
// that cannot be lazy may share its lowest layers with one that is, and `nerdctl commit` works.
//
//	lazy      committed by Prepare itself, when containerd asks for a layer of an image that can be lazy; never has files
//	ordinary  prepared, unpacked into and committed by others; snapshots/ID/fs is its part of an overlay
//
// containerd tells which image a layer belongs to by labels. It does so for CRI, for nerdctl, and for the transfer
// service of 2.x when our exports have enable_remote_snapshot_annotations; `ctr image pull` of 1.6 does not, and gets
// ordinary snapshots. Labels can come from annotations of a hostile image, therefore a layer is lazy only when
// its chain ID follows from the diffIDs of the image that the labels name.
//
// # Place
//
// A door, like fs and control. Below it is what implements [Images], which node gives it; above it is containerd
// 1.6 to 2.4. Snapshots are in metadata.db (bbolt, containerd's own schema); what is lazy, and where its tree was
// mounted, is in labels of the snapshot.
//
// # Goroutines
//
// Those of gRPC, one for each call. [Snapshotter.Serve] has one that stops the server when its context ends, and a few that
// mount again after a start what was mounted before; it waits for all of them.
//
// # Locks
//
// decisions.mu and lowers.mu guard maps, and are never held while Images, the disk or bbolt is asked. Write transactions of
// bbolt exclude each other; only small directories are made and renamed inside of one. Order: a transaction,
// then lowers.mu.
//
// # Errors
//
// Classes of github.com/containerd/errdefs, which gRPC carries to containerd. What Images says keeps its text, which
// containerd shows to whoever pulls, and names the image.
package snapshotter

import "context"

// Image is an image as containerd pulls it.
type Image struct {
	Ref      string // as it was asked for: "registry.example/app:v1"
	Manifest string // digest of the manifest of this platform, "sha256:…"; it, not Ref, says what the image is
}

// Images makes images readable before they are here. All methods may be called concurrently.
type Images interface {
	// Prepare says whether an image can be lazy, and starts to get it ready. An error says why it cannot be lazy;
	// its layers then become ordinary snapshots. It is asked again at each pull and returns quickly: what takes
	// time is for Lower to wait for. diffIDs are those of all its layers, the lowest first.
	Prepare(ctx context.Context, image Image) (diffIDs []string, err error)

	// Lower returns the directory on which the merged tree of the first depth layers is mounted, and waits until
	// it is. It is asked for the same tree again and again. Several images may have the same directory. An error
	// names the layer and the reason. Stat of a directory of EROFS must not need the process that asks.
	Lower(ctx context.Context, image Image, depth int) (dir string, err error)

	// Drop says that no snapshot uses a directory of Lower any more, also one that Lower gave to an
	// earlier process. Lower may be asked for it again afterwards.
	Drop(dir string) error

	// Usage is what the layer number depth (1 is the lowest) by itself occupies on this machine now: bytes and
	// inodes. It does not wait.
	Usage(image Image, depth int) (size, inodes int64)

	// Forget says that no snapshot of an image is left, after Drop of what was mounted for it. What is kept for it
	// may go. This is also how an aborted pull ends.
	Forget(image Image)
}
