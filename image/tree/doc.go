// Package tree merges the layers of an image into the one tree that a container sees, without unpacking any of them:
// what comes out says for every file in which layer's address space its bytes lie.
//
// The rule is: the tree is what root gets by unpacking the layers one after the other into an empty directory with
// `umoci unpack`, attribute by attribute. That settles what the OCI image specification (layer.md) leaves open:
//
//   - Names are cleaned as if the layer's top were "/": absolute names and ".." never lead out of it.
//   - Symbolic links in the directory part of a name are followed inside the tree, as in a chroot; the last element is
//     never followed. So a layer with a link to /etc and a file behind it writes to the /etc of the image. A link that
//     leads nowhere makes the directories that it names. Hard links find their target by the same rule.
//   - A whiteout hides what lower layers brought, wherever in its layer it stands: what its own layer brought under the
//     same name stays. One that names nothing, "." or ".." is refused.
//   - A layer that is a file system (Layer.Overlay) hides in the form of overlayfs instead: a character device 0/0 hides
//     what has its name below, a directory with the attribute trusted.overlay.opaque (or user.overlay.opaque) hides what
//     is in it below.
//   - A directory over a directory keeps the children and takes all attributes of the newer entry; anything else over
//     anything else replaces it. The last of several entries of one name counts.
//   - Missing parents are made as mkdir(2) makes them for root: mode 0755, owned by root, or by the group and with the
//     default ACL of a parent that passes those on. Their modification time, which unpacking takes from the clock, is 0.
//   - Times of directories are those of their entries: where unpacking creates or removes something below a directory
//     without an entry of its own and leaves the clock's time there, we keep what it had.
//   - Attributes that describe the machine where a layer was built are left out: security.selinux, system.nfs4_acl and
//     what overlayfs keeps in trusted.overlay.*; so are attributes of a namespace that Linux does not have. A user
//     attribute of anything but a file or directory is left out too (umoci refuses it, containerd leaves it out). An
//     access ACL sets the permission bits, and is stored only when it says more than those.
//   - An owner of 2^32-1 means "as it was" (chown(2)).
//
// What unpacking would fail on, Merge refuses, naming layer and entry: an entry below something that is no directory, a
// hard link to nothing or to a directory, a name of more than 255 bytes, a link that leads in a circle. Device nodes
// of archives are kept whatever their number: 0/0 too, which overlayfs takes for a whiteout when the tree is one of its layers.
//
// # Place
//
// In image, above index, whose entries it takes; below fs/erofs, which writes a Tree in a form that the kernel mounts.
//
// # Goroutines
//
// None.
//
// # Locks
//
// None: a Tree does not change once it is made.
//
// # Errors
//
// blob.ErrInvalid: a layer that cannot be unpacked, or one beyond the limits of this package. Errors of the entries'
// own iterators are wrapped with the layer's name.
package tree
