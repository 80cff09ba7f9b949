package registry

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"oras.land/oras-go/v2/registry/remote/credentials"

	"github.com/pantala/pantala/blob"
)

// credential is what a configuration says of one server; the zero value is nobody's.
type credential struct {
	user, password string
	identity       string // a refresh token for the token server (docker calls it identitytoken)
	token          string // a bearer token for the registry itself
	from           string // which file or helper said so, for texts
}

func (c credential) empty() bool { return c.user == "" && c.identity == "" && c.token == "" }

// String keeps secrets out of texts that print a credential.
func (c credential) String() string { return "credential from " + c.from }

// GoString is String.
func (c credential) GoString() string { return c.String() }

// maxConfig bounds a configuration file; docker's are a few KiB.
const maxConfig = 4 << 20

// authFile is what docker's config.json and the auth.json of containers tools have in common.
type authFile struct {
	Auths map[string]struct {
		Auth          string `json:"auth"`
		Username      string `json:"username"`
		Password      string `json:"password"`
		IdentityToken string `json:"identitytoken"`
		RegistryToken string `json:"registrytoken"`
	} `json:"auths"`
	CredsStore  string            `json:"credsStore"`
	CredHelpers map[string]string `json:"credHelpers"`
}

// authPaths are the files that are read, in their order: docker's, then those of podman, buildah and skopeo. dirs
// replace all of them when there are any: folders with a config.json or auth.json in them.
func authPaths(dirs []string) (paths []string) {
	if len(dirs) > 0 {
		for _, d := range dirs {
			paths = append(paths, filepath.Join(d, "config.json"), filepath.Join(d, "auth.json"))
		}
		return paths
	}
	home, err := os.UserHomeDir()
	if err != nil {
		// A service of the system has no HOME; root's files are where root's are.
		if u, err := user.LookupId(strconv.Itoa(os.Getuid())); err == nil {
			home = u.HomeDir
		}
	}
	add := func(dir string, rest ...string) {
		if dir != "" {
			paths = append(paths, filepath.Join(append([]string{dir}, rest...)...))
		}
	}
	if dir := os.Getenv("DOCKER_CONFIG"); dir != "" {
		add(dir, "config.json")
	} else {
		add(home, ".docker", "config.json")
	}
	if file := os.Getenv("REGISTRY_AUTH_FILE"); file != "" {
		return append(paths, file)
	}
	add(os.Getenv("XDG_RUNTIME_DIR"), "containers", "auth.json")
	if dir := os.Getenv("XDG_CONFIG_HOME"); dir != "" {
		add(dir, "containers", "auth.json")
	} else {
		add(home, ".config", "containers", "auth.json")
	}
	return paths
}

// hubServer is the name of Docker Hub in docker's configuration.
const hubServer = "https://index.docker.io/v1/"

// credentialFor looks for what to say at a server, given by host and port as they stand in a reference ("docker.io"
// for Docker Hub), when a repository there is read. The files are read each time: a login takes effect at once, and
// survives a restart of this program, because it is only kept where docker keeps it.
func credentialFor(ctx context.Context, dirs []string, host, repository string) (credential, error) {
	var trouble error
	for _, path := range authPaths(dirs) {
		c, err := credentialIn(ctx, path, host, repository)
		if err != nil && trouble == nil {
			trouble = err
		}
		if err == nil && !c.empty() {
			return c, nil
		}
	}
	return credential{}, trouble
}

// credentialIn looks into one file; none is as good as an empty one.
func credentialIn(ctx context.Context, path, host, repository string) (credential, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return credential{}, nil
	}
	if err != nil {
		return credential{}, fmt.Errorf("registry credentials: %w: %v: make the file readable for this program", blob.ErrDenied, err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxConfig))
	if err != nil {
		return credential{}, fmt.Errorf("registry credentials: %w: %s: %v", blob.ErrUnavailable, path, err)
	}
	var conf authFile
	if len(strings.TrimSpace(string(text))) == 0 {
		return credential{}, nil
	}
	if err := json.Unmarshal(text, &conf); err != nil {
		// The error of encoding/json may quote a value.
		return credential{}, fmt.Errorf("registry credentials: %w: %s is not the JSON that docker login writes: repair or remove it", blob.ErrInvalid, path)
	}
	c, err := conf.helped(ctx, path, host)
	if !c.empty() {
		return c, nil
	}
	for _, key := range keysFor(host, repository) {
		for name, a := range conf.Auths {
			if serverName(name) != key {
				continue
			}
			c := credential{user: a.Username, password: a.Password, identity: a.IdentityToken, token: a.RegistryToken, from: path}
			if a.Auth != "" {
				raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(a.Auth))
				user, password, ok := strings.Cut(string(raw), ":")
				if err != nil || !ok {
					return credential{}, fmt.Errorf("registry credentials: %w: %s: \"auth\" of %s is not base64 of USER:PASSWORD: docker login again", blob.ErrInvalid, path, host)
				}
				c.user, c.password = user, strings.TrimRight(password, "\x00")
			}
			if !c.empty() {
				return c, nil
			}
		}
	}
	return credential{}, err
}

// helperRE is what the name of a credential helper may be: it becomes part of the name of a program.
var helperRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$`)

// helped asks the credential helper that the configuration names for a server, or for all of them.
func (conf *authFile) helped(ctx context.Context, path, host string) (credential, error) {
	helper, server := conf.CredsStore, host
	if host == hub {
		server = hubServer
	}
	for name, h := range conf.CredHelpers {
		if serverName(name) == host {
			helper, server = h, name
			break
		}
	}
	if helper == "" {
		return credential{}, nil
	}
	if !helperRE.MatchString(helper) {
		return credential{}, fmt.Errorf("registry credentials: %w: %s names the credential helper %q, which is no name of a program", blob.ErrInvalid, path, clip(helper))
	}
	got, err := credentials.NewNativeStore(helper).Get(ctx, server)
	if ctx.Err() != nil {
		return credential{}, fmt.Errorf("registry credentials: docker-credential-%s: %w", helper, ctx.Err())
	}
	if err != nil {
		why := err.Error()
		if strings.Contains(why, "Secret") {
			why = "it failed" // it has printed an answer and failed: the answer may hold the secret
		}
		return credential{}, fmt.Errorf("registry credentials: %w: docker-credential-%s (named in %s): %s: install or repair it, or log in again", blob.ErrDenied, helper, path, clip(why))
	}
	return credential{user: got.Username, password: got.Password, identity: got.RefreshToken, from: "docker-credential-" + helper}, nil
}

// keysFor are the names under which a file may keep credentials for a repository, most special first:
// containers-auth.json(5) allows parts of the repository's name behind the host.
func keysFor(host, repository string) (keys []string) {
	for name := host + "/" + repository; name != ""; {
		keys = append(keys, name)
		i := strings.LastIndexByte(name, '/')
		name = name[:max(i, 0)]
	}
	return keys
}

// serverName brings the name of a server in a configuration file to the form that references have.
func serverName(s string) string {
	bare := strings.TrimPrefix(strings.TrimPrefix(s, "https://"), "http://")
	host, path, _ := strings.Cut(strings.TrimSuffix(bare, "/"), "/")
	host = strings.ToLower(host)
	if host == "index.docker.io" || host == "registry-1.docker.io" {
		host = hub
	}
	if path == "" || path == "v1" || path == "v2" {
		return host
	}
	return host + "/" + path
}
