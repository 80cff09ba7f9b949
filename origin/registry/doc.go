// Package registry reads images from OCI distribution registries: which layers an image has, and their bytes.
//
// [Client.Resolve] turns a reference ("ubuntu", "host:5000/app:tag", "app@sha256:…") into an [Image]: the digest of
// the manifest for a platform, the configuration, and a [Layer] for each layer. [Client.Layer] is a layer as an origin
// that fetch can read at random. What else a registry can do for an image, indexes of layers as artefacts that refer
// to it, is [Client.Referrers], [Client.Artifact], [Client.PushBlob] and [Client.PushManifest].
//
// # Terms
//
// A reference names a repository at a host, and a tag or digest in it. The host's servers are those of its hosts.toml,
// in their order, then its own. A tag is believed for a while and, when no server can be reached, for as long as
// nobody says otherwise (stale). Everything but a tag is named by its SHA-256 and checked against it here, except
// layers, which are checked by whoever receives them.
//
// # Place
//
// Above origin, whose requests, retries, mirrors and belief in answers it uses, and below image and snapshotter. Of
// oras-go it takes the protocol of credential helpers and the order of scopes.
//
// # Goroutines
//
// One for each token that is being asked for: it outlives the request that needed it, because others wait for the same
// token. [Client.Close] ends and waits for all of them.
//
// # Locks
//
// login.mu guards one login, keyring.mu the table of logins, hostsCache.mu what was read of hosts.toml, memory.mu what
// Resolve has learned, distances.mu how far registries are, Blob.mu its object. None is held across I/O, and none while another one is, but login.mu while
// keyring.mu is taken.
//
// # Errors
//
// [blob.ErrInvalid]: a reference, platform, configuration file, manifest or media type that cannot be used.
// [blob.ErrNotFound]: no such repository, tag or digest, no manifest for the platform. [blob.ErrDenied]: credentials
// are missing or refused. [blob.ErrUnavailable]: nobody answered in time, or too many requests. [blob.ErrCorrupt]:
// bytes that are not what their digest or size says. Texts say what to do and never hold credentials.
package registry
