package rafs

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"path"

	"github.com/pantala/pantala/blob"
)

// Annotations of the layers of a Nydus image.
const (
	AnnotationBootstrap = "containerd.io/snapshot/nydus-bootstrap"  // of the last layer, which holds the bootstrap
	AnnotationBlob      = "containerd.io/snapshot/nydus-blob"       // of the others
	AnnotationVersion   = "containerd.io/snapshot/nydus-fs-version" // of RAFS: "5" or "6"; of the last layer
	// BlobType is the media type of a blob.
	BlobType = "application/vnd.oci.image.layer.nydus.blob.v1"
)

// ErrUnsupported: the image is one that this program cannot read.
var ErrUnsupported = fmt.Errorf("%w: a Nydus image of a kind that is not supported", blob.ErrInvalid)

func unsupported(format string, a ...any) error {
	return fmt.Errorf("%w: %s", ErrUnsupported, fmt.Sprintf(format, a...))
}

func corrupt(format string, a ...any) error {
	return fmt.Errorf("%w Nydus bootstrap: %s", blob.ErrCorrupt, fmt.Sprintf(format, a...))
}

const (
	// MaxBoot bounds a bootstrap, in bytes, stored and decoded: it is read whole, in memory. One of a million files and
	// 100 GiB in chunks of 1 MiB has some 150 MB.
	MaxBoot = 256 << 20
	// bootName is where in its layer the bootstrap stands.
	bootName = "image/image.boot"
	// maxMembers bounds what is looked at in search of it: there are two or three.
	maxMembers = 64
)

// Extract finds the bootstrap in the layer that holds it, an archive that may be compressed with gzip.
func Extract(layer []byte) ([]byte, error) {
	var r io.Reader = bytes.NewReader(layer)
	if bytes.HasPrefix(layer, []byte("\x28\xb5\x2f\xfd")) {
		return nil, unsupported("its bootstrap is compressed with Zstandard: convert the image with gzip")
	}
	if bytes.HasPrefix(layer, []byte("\x1f\x8b")) {
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, corrupt("its layer: %v", err)
		}
		r = z
	}
	archive := tar.NewReader(io.LimitReader(r, MaxBoot+maxMembers<<20))
	for range maxMembers {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, corrupt("its layer: %v", err)
		}
		if path.Clean("/"+h.Name) != "/"+bootName || h.Typeflag != tar.TypeReg {
			continue
		}
		if h.Size > MaxBoot {
			return nil, unsupported("a bootstrap of %d bytes; no more than %d are read", h.Size, MaxBoot)
		}
		boot := make([]byte, 0, min(h.Size, 1<<20)) // what it says may not be there
		b := bytes.NewBuffer(boot)
		if n, err := io.Copy(b, archive); err != nil || n != h.Size {
			return nil, corrupt("its layer ends after %d bytes of %d: %v", n, h.Size, err)
		}
		return b.Bytes(), nil
	}
	return nil, corrupt("its layer has no file %s", bootName)
}
