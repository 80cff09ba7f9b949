package images

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/pantala/pantala/e2e/e2etest"
	"github.com/pantala/pantala/e2e/images/imagestest"
)

const nobody = 65534

// unprivileged is what a user without any rights does with an image, in a mount namespace of its own in which /dev/fuse is
// open to all, as udev makes it on an ordinary machine. $0 is a folder, then: pantala, state, reference, dir, and how a
// tree is listed, on stdout.
const unprivileged = `
set -e
mknod "$0/fuse" c 10 229
chmod 666 "$0/fuse"
mount --bind "$0/fuse" /dev/fuse
exec setpriv --reuid 65534 --regid 65534 --clear-groups env HOME="$0" sh -e -c '
	"$1" mount --state "$2" --listen 127.0.0.1:0 --fill never "$3" "$4" >&2
	sh -c "$5" "$4"
	[ -z "$(find "$4" ! -user 65534)" ] || { echo "not everything belongs to who has mounted it" >&2; exit 90; }
	"$1" umount --state "$2" "$4"
	! grep -q " $4 " /proc/self/mountinfo || { echo "still mounted" >&2; exit 92; }
	"$1" daemon --stop --state "$2"
	! grep -q " $2" /proc/self/mountinfo || { echo "something is still mounted" >&2; exit 93; }
' "$0" "$@"
`

// listed is what of a tree does not depend on who has mounted it: path, type, mode, size and target of each name, and the
// digest of each file.
const listed = `cd "$0" && find . -printf "%P %y %m %s %l\n" | sed "/ d/s/ [0-9]* $//" | sort && find . -type f -print0 | sort -z | xargs -0 sha256sum`

// TestNobody: a user without privileges mounts an image by fusermount3, sees what root sees, and nothing is left.
func TestNobody(t *testing.T) {
	e2etest.NeedRoot(t)
	e2etest.NeedFUSE(t)
	e2etest.NeedProgram(t, "fusermount3", "apt-get install fuse3")
	w := e2etest.New(t)
	r := imagestest.NewRegistry(w, false)
	image, _ := three(t, 1)
	ref := "oci://" + r.Push("three", image)
	root, at := w.Node("root"), w.Dir("root")
	root.Must("mount", ref, at)
	want := w.MustRun(commandLimit, "sh", "-c", listed, at).Stdout
	root.Must("umount", at)
	n, dir, dev := w.Node("nobody"), w.Dir("mnt"), w.Dir("dev")
	for _, d := range []string{n.State, dir, dev} {
		if err := os.Chown(d, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	got := w.Start(e2etest.Command{
		Args: []string{"unshare", "--mount", "--propagation", "private", "sh", "-c", unprivileged,
			dev, e2etest.Binary(t), n.State, ref, dir, listed},
		Env: n.Env(),
	}).Wait(2 * commandLimit)
	n.UID = nobody // whom its commands obey
	if got.Code != 0 {
		t.Fatalf("%v", got)
	}
	if got.Stdout != want {
		t.Errorf("nobody sees\n%s\nroot\n%s", got.Stdout, want)
	}
	if left, _ := filepath.Glob(filepath.Join(n.State, "images/mnt/*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
