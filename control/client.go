package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/pantala/pantala/blob"
)

// Client speaks to the node whose state directory it was made for. It implements [Node].
type Client struct {
	state string
	http  *http.Client
}

var _ Node = (*Client)(nil)

// NewClient connects to nobody yet; that is done by every call.
func NewClient(state string) *Client {
	t := &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, state) },
		DisableKeepAlives: true, // a command makes few calls, and an idle connection would hold up Server.Close
		Proxy:             nil,
	}
	return &Client{state, &http.Client{Transport: t}}
}

// maxAnswer bounds an answer in bytes: a status of thousands of mounts.
const maxAnswer = 64 << 20

// post sends q and returns the response when it is a good one; the caller closes its body.
func (c *Client) post(ctx context.Context, path string, q any) (*http.Response, error) {
	body, err := json.Marshal(q)
	if err != nil {
		return nil, fmt.Errorf("%w request: %v", blob.ErrInvalid, err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://control"+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("%w request: %v", blob.ErrInvalid, err)
	}
	r.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(r)
	if err != nil {
		return nil, c.broken(ctx, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotFound {
		return nil, fmt.Errorf("%w request: the daemon in %s does not know %s: stop it (it is of another version) and try again", blob.ErrInvalid, c.state, path)
	}
	f := new(Fault)
	if err := read(resp.Body, f); err != nil {
		return nil, c.broken(ctx, err)
	}
	if err := f.Check(); err != nil {
		return nil, c.broken(ctx, err)
	}
	return nil, f
}

// broken is what a failed exchange means to the caller.
func (c *Client) broken(ctx context.Context, err error) error {
	if errors.Is(err, ErrNoDaemon) {
		return fmt.Errorf("%w in %s", ErrNoDaemon, c.state) // without the words of net/http around it
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, ErrLocal) {
		return err
	}
	return fmt.Errorf("%w: the daemon in %s %w (%v): see daemon.log there", blob.ErrUnavailable, c.state, ErrBroke, err)
}

func read(r io.Reader, to any) error {
	return json.NewDecoder(io.LimitReader(r, maxAnswer)).Decode(to)
}

// again repeats, once, a request that may be repeated when its exchange broke off: the daemon was just dying,
// and the second try finds it gone, or the next one there.
func again[A any](ctx context.Context, c *Client, path string, q any) (A, error) {
	a, err := ask[A](ctx, c, path, q)
	if errors.Is(err, ErrBroke) {
		return ask[A](ctx, c, path, q)
	}
	return a, err
}

// ask is one request and its answer.
func ask[A any](ctx context.Context, c *Client, path string, q any) (a A, err error) {
	resp, err := c.post(ctx, path, q)
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	if err := read(resp.Body, &a); err != nil {
		return a, c.broken(ctx, err)
	}
	return a, nil
}

// Mount implements [Node].
func (c *Client) Mount(ctx context.Context, r MountRequest) (MountReply, error) {
	return ask[MountReply](ctx, c, "/v1/mount", r)
}

// Unmount implements [Node].
func (c *Client) Unmount(ctx context.Context, dir string, force bool) error {
	_, err := again[empty](ctx, c, "/v1/unmount", unmountRequest{dir, force})
	return err
}

// Status implements [Node].
func (c *Client) Status(ctx context.Context) (Status, error) {
	return again[Status](ctx, c, "/v1/status", empty{})
}

// Share implements [Node].
func (c *Client) Share(ctx context.Context, r ShareRequest, progress func(Progress)) (ShareReply, error) {
	return stream(ctx, c, "/v1/share", r, progress, func(e *event) *ShareReply { return e.Reply })
}

// stream is one request with a long answer. last is the reply of an event, nil when it has none.
func stream[A any](ctx context.Context, c *Client, path string, q any, progress func(Progress), last func(*event) *A) (none A, err error) {
	resp, err := c.post(ctx, path, q)
	if err != nil {
		return none, err
	}
	defer resp.Body.Close()
	lines := json.NewDecoder(resp.Body)
	for {
		var e event
		if err := lines.Decode(&e); err != nil {
			return none, c.broken(ctx, err)
		}
		if e.Fault != nil {
			return none, e.Fault
		}
		if reply := last(&e); reply != nil {
			return *reply, nil
		}
		if e.Progress != nil && progress != nil {
			progress(*e.Progress)
		}
	}
}

// Unshare implements [Node].
func (c *Client) Unshare(ctx context.Context, name string) error {
	_, err := again[empty](ctx, c, "/v1/unshare", nameRequest{Name: name})
	return err
}

// CacheList implements [Cache].
func (c *Client) CacheList(ctx context.Context) ([]Cached, error) {
	return again[[]Cached](ctx, c, "/v1/cache/ls", empty{})
}

// CacheStat implements [Cache].
func (c *Client) CacheStat(ctx context.Context, name string) (Cached, error) {
	return again[Cached](ctx, c, "/v1/cache/stat", nameRequest{Name: name})
}

// CachePin implements [Cache].
func (c *Client) CachePin(ctx context.Context, name string, on bool) (Cached, error) {
	return again[Cached](ctx, c, "/v1/cache/pin", nameRequest{Name: name, On: on})
}

// CacheRemove implements [Cache].
func (c *Client) CacheRemove(ctx context.Context, name string) (Cached, error) {
	return ask[Cached](ctx, c, "/v1/cache/rm", nameRequest{Name: name})
}

// CacheGC implements [Cache].
func (c *Client) CacheGC(ctx context.Context, free int64) (int64, error) {
	r, err := ask[gcReply](ctx, c, "/v1/cache/gc", gcRequest{free})
	return r.Freed, err
}

// ProfileList implements [Profiles].
func (c *Client) ProfileList(ctx context.Context) ([]Profile, error) {
	return again[[]Profile](ctx, c, "/v1/profile/ls", empty{})
}

// ProfileGet implements [Profiles].
func (c *Client) ProfileGet(ctx context.Context, image string) (Profile, error) {
	return again[Profile](ctx, c, "/v1/profile/get", nameRequest{Name: image})
}

// ProfilePut implements [Profiles].
func (c *Client) ProfilePut(ctx context.Context, image string, data []byte) (Profile, error) {
	return again[Profile](ctx, c, "/v1/profile/put", profileRequest{image, data})
}

// ImageInspect implements [Images].
func (c *Client) ImageInspect(ctx context.Context, r ImageRequest) (Image, error) {
	return again[Image](ctx, c, "/v1/image/inspect", r)
}

// ImageCheck implements [Images].
func (c *Client) ImageCheck(ctx context.Context, r ImageRequest, progress func(Progress)) (Image, error) {
	return stream(ctx, c, "/v1/image/check", r, progress, func(e *event) *Image { return e.Image })
}

// ImageIndex implements [Images].
func (c *Client) ImageIndex(ctx context.Context, r ImageRequest, progress func(Progress)) (Image, error) {
	return stream(ctx, c, "/v1/image/index", r, progress, func(e *event) *Image { return e.Image })
}

// ImagePush implements [Images].
func (c *Client) ImagePush(ctx context.Context, r ImageRequest) (Image, error) {
	return ask[Image](ctx, c, "/v1/image/push", r)
}

// Limits implements [Node].
func (c *Client) Limits(ctx context.Context, r LimitsRequest) (Limits, error) {
	return again[Limits](ctx, c, "/v1/limits", r)
}

// Stop implements [Node].
func (c *Client) Stop(ctx context.Context, idle bool) (bool, error) {
	r, err := ask[stopReply](ctx, c, "/v1/stop", stopRequest{idle})
	return r.Stopping, err
}
