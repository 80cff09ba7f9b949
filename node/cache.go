package node

import (
	"context"
	"fmt"
	"github.com/pantala/pantala/metainfo"
	"net/url"
	"strings"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/blockio"
	"github.com/pantala/pantala/control"
)

// Cache looks after the blobs of a store, whether or not a node runs on it.
type Cache struct{ Store *blockio.Store }

var _ control.Cache = Cache{}

// OpenCache opens the store of a state directory in which no node runs.
func OpenCache(state string, o blockio.Options) (Cache, error) {
	s, err := blockio.Open(StoreDir(state), o)
	if err != nil {
		return Cache{}, control.Local(fmt.Errorf("cache: %w", err))
	}
	return Cache{s}, nil
}

func cached(i blockio.Info) control.Cached {
	return control.Cached{
		ID: i.ID.String(), Source: i.Meta.Source, Name: i.Meta.Name, Validator: i.Meta.Validator, Size: i.Geometry.Size,
		Present: i.Present, Allocated: i.Allocated, Complete: i.Complete, Pinned: i.Pinned, Open: i.Open, Used: i.Used,
	}
}

// shortest is the fewest hexadecimal digits that may stand for an id.
const shortest = 4

// one finds the blob that name means.
func (c Cache) one(name string) (blockio.Info, error) {
	if id, err := blob.ParseID(name); err == nil {
		if i, ok := c.Store.Lookup(id); ok {
			return i, nil
		}
		return blockio.Info{}, fmt.Errorf("%w: no blob %s in the cache: pantala cache ls lists them", blob.ErrNotFound, name)
	}
	canonical := name
	if u, err := url.Parse(name); err == nil && u.Host != "" {
		canonical = blob.CanonicalURL(u)
	} else if m, err := metainfo.ParseMagnet(name); err == nil {
		canonical = m.Source()
	}
	var hits []blockio.Info
	for _, i := range c.Store.List() {
		kind, hex, _ := strings.Cut(i.ID.String(), ":")
		rest := strings.TrimPrefix(name, kind+":")
		if i.Meta.Source == canonical || i.Meta.Name == name || len(rest) >= shortest && strings.HasPrefix(hex, rest) {
			hits = append(hits, i)
		}
	}
	switch len(hits) {
	case 0:
		return blockio.Info{}, fmt.Errorf("%w: nothing called %q is in the cache: pantala cache ls lists what is", blob.ErrNotFound, redact(name))
	case 1:
		return hits[0], nil
	}
	var ids []string
	for _, h := range hits[:min(len(hits), 4)] {
		ids = append(ids, h.ID.String()[:20])
	}
	return blockio.Info{}, fmt.Errorf("%w: %q is %d blobs in the cache: name one by its id (%s…)", blob.ErrInvalid, redact(name), len(hits), strings.Join(ids, "…, "))
}

// CacheList implements control.Cache.
func (c Cache) CacheList(context.Context) ([]control.Cached, error) {
	all := []control.Cached{}
	for _, i := range c.Store.List() {
		all = append(all, cached(i))
	}
	return all, nil
}

// CacheStat implements control.Cache.
func (c Cache) CacheStat(_ context.Context, name string) (control.Cached, error) {
	i, err := c.one(name)
	if err != nil {
		return control.Cached{}, err
	}
	return cached(i), nil
}

// CachePin implements control.Cache.
func (c Cache) CachePin(_ context.Context, name string, on bool) (control.Cached, error) {
	i, err := c.one(name)
	if err != nil {
		return control.Cached{}, err
	}
	if err := c.Store.Pin(i.ID, on); err != nil {
		return control.Cached{}, control.Local(err)
	}
	i.Pinned = on
	return cached(i), nil
}

// CacheRemove implements control.Cache.
func (c Cache) CacheRemove(_ context.Context, name string) (control.Cached, error) {
	i, err := c.one(name)
	if err != nil {
		return control.Cached{}, err
	}
	if i.Open {
		return control.Cached{}, control.Local(fmt.Errorf("cache: %s is in use: unmount it, or stop sharing it, first", i.Meta.Source))
	}
	if err := c.Store.Remove(i.ID); err != nil {
		return control.Cached{}, control.Local(err)
	}
	return cached(i), nil
}

// CacheGC implements control.Cache.
func (c Cache) CacheGC(_ context.Context, free int64) (int64, error) {
	freed, err := c.Store.GC(free)
	return freed, control.Local(err)
}
