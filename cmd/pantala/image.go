package main

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/config"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/image/artifact"
)

const imageLong = `Look at container images: what their layers are, whether they are what they should be, and
which indexes they have.

The index of a layer says where each file lies and how any part of the layer is decoded alone. Whoever
reads a layer for the first time makes it; others get it from peers, or, signed, from the registry.
Layers of eStargz, zstd:chunked and SOCI, and Nydus images (RAFS v6), bring their own. Layers may be
archives or EROFS images.

IMAGE is a reference as for pantala mount, with or without oci://.`

func (a *app) imageCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "image",
		Short:   "Inspect, check and index container images",
		Long:    imageLong,
		Example: "  pantala image inspect python:3.12\n  pantala image check registry.example:5000/app:v3\n  pantala image index --push --sign key.pem registry.example:5000/app:v3",
		GroupID: "look",
		Args:    cobra.ArbitraryArgs,
		RunE:    group,
	}
	c.AddCommand(a.imageInspect(), a.imageCheck(), a.imageIndex(), a.imageKey())
	return c
}

// imageFlags are those of all commands that look at an image.
type imageFlags struct{ platform, out string }

func (f *imageFlags) add(c *cobra.Command) {
	flags := c.Flags()
	flags.SortFlags = false
	flags.StringVar(&f.platform, "platform", "", "os/arch[/variant] (default this machine's)")
	addRegistries(flags)
	f.out = "table"
	output(c, &f.out)
}

func (f *imageFlags) request(c config.Config, ref string) control.ImageRequest {
	return control.ImageRequest{Ref: ref, Platform: f.platform, Expect: expect(c)}
}

func (a *app) imageInspect() *cobra.Command {
	fl := new(imageFlags)
	c := &cobra.Command{
		Use:   "inspect IMAGE",
		Short: "Show the layers of an image, what is here of them, and their indexes",
		Long: `Show the layers of an image, bottom first: how much of each is here, and which index it has, if that is
known here or others claim one, with whose word it is: claimed, pinned (the image names it), signed,
built (made here of all bytes). No layer is read.`,
		Example: "  pantala image inspect python:3.12\n  pantala image inspect -o json python:3.12",
		Args:    exactly(1, "an IMAGE"),
		RunE: func(c *cobra.Command, args []string) error {
			conf, err := a.load(c.Flags())
			if err != nil {
				return err
			}
			var i control.Image
			if err := a.withDaemon(c.Context(), conf, func(client *control.Client) (err error) {
				i, err = client.ImageInspect(c.Context(), fl.request(conf, args[0]))
				return err
			}); err != nil {
				return err
			}
			return a.image(i, fl.out)
		},
	}
	fl.add(c)
	return c
}

// image prints what is known of an image.
func (a *app) image(i control.Image, out string) error {
	a.warn(i.Warnings...)
	if out == "json" {
		return a.json(i)
	}
	w := tabwriter.NewWriter(a.stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "image\t%s\nmanifest\t%s\nplatform\t%s\n", i.Ref, i.Manifest, i.Platform)
	if i.Artifact != "" {
		fmt.Fprintf(w, "artifact\t%s\n", i.Artifact)
	}
	fmt.Fprintln(w, "\nLAYER\tDIGEST\tSIZE\tHERE\tDECODED\tFORMAT\tSPANS\tINDEX\tTRUST\tDIFF ID\tMEDIA TYPE")
	for n, l := range i.Layers {
		format, spans, index, trust := cmp.Or(l.Kind, "-"), "-", "-", "-"
		if x := l.Index; x != nil {
			index, trust = fmt.Sprintf("%s, %s", x.Digest[:min(len(x.Digest), 19)], size(x.Size)), x.Trust
			if x.Spans > 0 {
				format, spans = x.Format, fmt.Sprint(x.Spans)
			}
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", n, l.Digest[:min(len(l.Digest), 19)], size(l.Size), percent(l.Present, l.Size), size(l.Decoded), format, spans, index, trust, l.DiffID[:min(len(l.DiffID), 19)], l.MediaType)
	}
	return w.Flush()
}

func (a *app) imageCheck() *cobra.Command {
	fl, quiet := new(imageFlags), false
	c := &cobra.Command{
		Use:   "check IMAGE",
		Short: "Read all layers whole and hold what is known of them against it",
		Long: `Read all layers of an image whole, from here, from peers, or from the registry, and compare: the bytes
with the digest and size of the manifest, what they decode to with the diff ID of the configuration, and
the index with both: every span is decoded alone. Of a Nydus image every chunk is held against the digest
in its bootstrap. One line for each layer says ok, or what is wrong.

The exit code is 6 when something does not match.`,
		Example: "  pantala image check python:3.12\n  pantala image check -o json python:3.12 | jq '.layers[] | select(.fault)'",
		Args:    exactly(1, "an IMAGE"),
		RunE: func(c *cobra.Command, args []string) error {
			conf, err := a.load(c.Flags())
			if err != nil {
				return err
			}
			bar := a.progress(args[0], quiet)
			defer bar.stop()
			var i control.Image
			err = a.withDaemon(c.Context(), conf, func(client *control.Client) (err error) {
				i, err = client.ImageCheck(c.Context(), fl.request(conf, args[0]), bar.update)
				return err
			})
			bar.stop()
			if err != nil {
				return err
			}
			return a.checked(i, fl.out)
		},
	}
	fl.add(c)
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "no progress")
	return c
}

// checked prints what a check has found. The error is that of the first layer whose bytes do not match, or else of the
// first that could not be read.
func (a *app) checked(i control.Image, out string) error {
	a.warn(i.Warnings...)
	var worst error
	bad := 0
	for _, l := range i.Layers {
		if l.Fault == nil {
			continue
		}
		if bad++; worst == nil || errors.Is(l.Fault, blob.ErrCorrupt) && !errors.Is(worst, blob.ErrCorrupt) {
			worst = l.Fault
		}
	}
	if out == "json" {
		if err := a.json(i); err != nil {
			return err
		}
	} else {
		for n, l := range i.Layers {
			says := "ok"
			if l.Fault != nil {
				says = oneLine(l.Fault.Text)
			}
			fmt.Fprintf(a.stdout, "%d\t%s\t%s\n", n, l.Digest, says)
		}
	}
	if worst != nil {
		return fmt.Errorf("%d of %s: %w", bad, count(len(i.Layers), "layer"), worst)
	}
	return nil
}

func (a *app) imageIndex() *cobra.Command {
	fl, quiet, push, sign := new(imageFlags), false, false, ""
	c := &cobra.Command{
		Use:   "index IMAGE",
		Short: "Make the indexes of an image's layers, and publish them",
		Long: `See to it that there is an index here for each layer of an image. A layer that has none yet is read
whole; it is neither mounted nor decoded to disk, and no root is needed.

With --push the indexes go to the image's repository, as an artefact that refers to the image (OCI
distribution specification 1.1, referrers); nothing of the image changes. What others only claim is not
pushed: those layers are read. Nodes use indexes of a registry only when they are signed by one of their
--index-keys, so --sign KEYFILE belongs to it. The key does not leave this command.`,
		Example: "  pantala image index python:3.12\n  pantala image key key.pem\n  pantala image index --push --sign key.pem registry.example:5000/app:v3\n  pantala mount --index-keys key.pem.pub oci://registry.example:5000/app:v3 /mnt/app",
		Args:    exactly(1, "an IMAGE"),
		RunE: func(c *cobra.Command, args []string) error {
			if sign != "" && !push {
				return usagef("--sign says how what is pushed is signed: add --push")
			}
			var key ed25519.PrivateKey
			if sign != "" {
				text, err := os.ReadFile(sign)
				if err != nil {
					return control.Local(fmt.Errorf("--sign: %w", err))
				}
				if key, err = artifact.ParsePrivate(text); err != nil {
					return fmt.Errorf("--sign: %s: %w", sign, err)
				}
			}
			conf, err := a.load(c.Flags())
			if err != nil {
				return err
			}
			bar := a.progress(args[0], quiet)
			defer bar.stop()
			i, err := a.index(c.Context(), conf, fl.request(conf, args[0]), push, key, bar)
			bar.stop()
			if err != nil {
				return err
			}
			return a.image(i, fl.out)
		},
	}
	fl.add(c)
	c.Flags().BoolVar(&push, "push", false, "put them into the image's repository")
	c.Flags().StringVar(&sign, "sign", "", "sign them with this private key, as pantala image key makes it")
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "no progress")
	return c
}

// index makes indexes, signs them, and pushes them, as far as that is wanted.
func (a *app) index(ctx context.Context, c config.Config, r control.ImageRequest, push bool, key ed25519.PrivateKey, bar *progress) (i control.Image, err error) {
	r.Own = push
	err = a.withDaemon(ctx, c, func(client *control.Client) error {
		if i, err = client.ImageIndex(ctx, r, bar.update); err != nil || !push {
			return err
		}
		if key != nil {
			if r.Signatures, err = signatures(i, key); err != nil {
				return err
			}
		}
		// What was signed is pushed, whatever the tag means by now.
		r.Ref = strings.SplitN(i.Ref, "@", 2)[0] + "@" + i.Manifest
		i, err = client.ImagePush(ctx, r)
		return err
	})
	return i, err
}

// signatures signs the index of each layer.
func signatures(i control.Image, key ed25519.PrivateKey) (map[string]string, error) {
	all := map[string]string{}
	manifest, err := blob.ParseDigest(i.Manifest)
	if err != nil {
		return nil, err
	}
	for _, l := range i.Layers {
		if l.Index == nil {
			return nil, fmt.Errorf("%w: layer %s: no index", blob.ErrNotFound, l.Digest)
		}
		says := artifact.Statement{Manifest: manifest, Stored: l.Size}
		var errs [3]error
		says.Layer, errs[0] = blob.ParseDigest(l.Digest)
		says.Root, errs[1] = blob.ParseHash(l.Index.Root)
		says.Index, errs[2] = blob.ParseDigest(l.Index.Digest)
		if err := errors.Join(errs[:]...); err != nil {
			return nil, err
		}
		all[l.Digest] = says.Sign(key)
	}
	return all, nil
}

func (a *app) imageKey() *cobra.Command {
	return &cobra.Command{
		Use:   "key FILE",
		Short: "Make a key that indexes are signed with",
		Long: `Make a pair of keys (Ed25519): FILE is the private one, for pantala image index --sign, which only you can
read; FILE.pub is the public one, for --index-keys of all nodes that shall believe what you sign. Files
that are there are not written over.`,
		Example: "  pantala image key key.pem",
		Args:    exactly(1, "a FILE"),
		RunE: func(c *cobra.Command, args []string) error {
			private, public, err := artifact.NewKey()
			if err != nil {
				return control.Local(err)
			}
			if err := writeNew(args[0], private, 0o600); err != nil {
				return err
			}
			if err := writeNew(args[0]+".pub", public, 0o644); err != nil {
				os.Remove(args[0])
				return err
			}
			fmt.Fprintln(a.stdout, args[0]+".pub")
			return nil
		},
	}
}

// writeNew writes a file that must not be there yet.
func writeNew(path string, text []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, os.ErrExist) {
		return control.Local(fmt.Errorf("%s is there already: name another file, or remove it", path))
	}
	if err == nil {
		_, err = f.Write(text)
		err = errors.Join(err, f.Sync(), f.Close())
	}
	return control.Local(err)
}
