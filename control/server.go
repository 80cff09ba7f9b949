package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/pantala/pantala/blob"
)

// Server answers commands from a [Node].
type Server struct {
	http  *http.Server
	state string
	log   *slog.Logger
	stop  context.CancelFunc
	done  chan struct{} // closed when the accept loop has ended
	once  sync.Once
}

// maxBody bounds a request in bytes; headers (-H) are the longest part of one.
const maxBody = 1 << 20

// progressEvery is how often a long answer says how far it is.
const progressEvery = 200 * time.Millisecond

// Serve opens the socket in state and answers from n until Close. log may be nil.
func Serve(state string, n Node, log *slog.Logger) (*Server, error) {
	l, err := Listen(state)
	if err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &Server{state: state, log: log, stop: stop, done: make(chan struct{})}
	s.http = &http.Server{
		Handler:           s.routes(n),
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: 5 * time.Second,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	go func() {
		defer close(s.done)
		s.http.Serve(l)
	}()
	return s, nil
}

// Close lets the answers under way end for as long as ctx lasts, then cuts them off, and removes the socket.
func (s *Server) Close(ctx context.Context) error {
	var err error
	s.once.Do(func() {
		if err = s.http.Shutdown(ctx); err != nil {
			s.stop() // the handlers' contexts end with it
			s.http.Close()
		}
		s.stop()
		<-s.done
		if e := os.Remove(filepath.Join(s.state, SocketName)); err == nil && !errors.Is(e, os.ErrNotExist) {
			err = e
		}
	})
	return err
}

func (s *Server) routes(n Node) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/mount", call(s, func(ctx context.Context, r MountRequest) (MountReply, error) { return n.Mount(ctx, r) }))
	mux.HandleFunc("POST /v1/unmount", call(s, func(ctx context.Context, r unmountRequest) (empty, error) {
		return empty{}, n.Unmount(ctx, r.Dir, r.Force)
	}))
	mux.HandleFunc("POST /v1/status", call(s, func(ctx context.Context, _ empty) (Status, error) { return n.Status(ctx) }))
	mux.HandleFunc("POST /v1/share", long(s, n.Share, func(r *ShareReply) event { return event{Reply: r} }))
	mux.HandleFunc("POST /v1/unshare", call(s, func(ctx context.Context, r nameRequest) (empty, error) {
		return empty{}, n.Unshare(ctx, r.Name)
	}))
	mux.HandleFunc("POST /v1/cache/ls", call(s, func(ctx context.Context, _ empty) ([]Cached, error) { return n.CacheList(ctx) }))
	mux.HandleFunc("POST /v1/cache/stat", call(s, func(ctx context.Context, r nameRequest) (Cached, error) {
		return n.CacheStat(ctx, r.Name)
	}))
	mux.HandleFunc("POST /v1/cache/pin", call(s, func(ctx context.Context, r nameRequest) (Cached, error) {
		return n.CachePin(ctx, r.Name, r.On)
	}))
	mux.HandleFunc("POST /v1/cache/rm", call(s, func(ctx context.Context, r nameRequest) (Cached, error) {
		return n.CacheRemove(ctx, r.Name)
	}))
	mux.HandleFunc("POST /v1/cache/gc", call(s, func(ctx context.Context, r gcRequest) (gcReply, error) {
		freed, err := n.CacheGC(ctx, r.Free)
		return gcReply{freed}, err
	}))
	mux.HandleFunc("POST /v1/profile/ls", call(s, func(ctx context.Context, _ empty) ([]Profile, error) { return n.ProfileList(ctx) }))
	mux.HandleFunc("POST /v1/profile/get", call(s, func(ctx context.Context, r nameRequest) (Profile, error) {
		return n.ProfileGet(ctx, r.Name)
	}))
	mux.HandleFunc("POST /v1/profile/put", call(s, func(ctx context.Context, r profileRequest) (Profile, error) {
		return n.ProfilePut(ctx, r.Name, r.Data)
	}))
	mux.HandleFunc("POST /v1/image/inspect", call(s, func(ctx context.Context, r ImageRequest) (Image, error) { return n.ImageInspect(ctx, r) }))
	mux.HandleFunc("POST /v1/image/push", call(s, func(ctx context.Context, r ImageRequest) (Image, error) { return n.ImagePush(ctx, r) }))
	ofImage := func(i *Image) event { return event{Image: i} }
	mux.HandleFunc("POST /v1/image/check", long(s, n.ImageCheck, ofImage))
	mux.HandleFunc("POST /v1/image/index", long(s, n.ImageIndex, ofImage))
	mux.HandleFunc("POST /v1/limits", call(s, func(ctx context.Context, r LimitsRequest) (Limits, error) { return n.Limits(ctx, r) }))
	mux.HandleFunc("POST /v1/stop", call(s, func(ctx context.Context, r stopRequest) (stopReply, error) {
		stopping, err := n.Stop(ctx, r.Idle)
		return stopReply{stopping}, err
	}))
	return mux
}

type (
	empty          struct{}
	unmountRequest struct {
		Dir   string `json:"dir"`
		Force bool   `json:"force"`
	}
	nameRequest struct {
		Name string `json:"name"`
		On   bool   `json:"on,omitempty"`
	}
	profileRequest struct {
		Name string `json:"name"`
		Data []byte `json:"data"`
	}
	gcRequest struct {
		Free int64 `json:"free"`
	}
	gcReply struct {
		Freed int64 `json:"freed"`
	}
	stopRequest struct {
		Idle bool `json:"idle"`
	}
	stopReply struct {
		Stopping bool `json:"stopping"`
	}
	// event is one line of a streamed answer: exactly one field is set; all but Progress are the last line.
	event struct {
		Progress *Progress   `json:"progress,omitempty"`
		Reply    *ShareReply `json:"reply,omitempty"`
		Image    *Image      `json:"image,omitempty"`
		Fault    *Fault      `json:"fault,omitempty"`
	}
)

// call wraps one method of the node as a handler.
func call[Q, A any](s *Server, f func(context.Context, Q) (A, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		defer s.guard(w, r)
		var q Q
		if err := decode(r.Body, &q); err != nil {
			fail(w, err)
			return
		}
		a, err := f(r.Context(), q)
		if err != nil {
			fail(w, err)
			return
		}
		answer(w, http.StatusOK, a)
	}
}

// guard turns a panic of the node into an answer, so that the daemon goes on.
func (s *Server) guard(w http.ResponseWriter, r *http.Request) {
	if p := recover(); p != nil && p != http.ErrAbortHandler {
		s.log.Error("BUG: panic in the control interface", "path", r.URL.Path, "panic", p)
		fail(w, fmt.Errorf("BUG: the daemon panicked: %v: please report it", p))
	}
}

// decode reads one request. Fields it does not know are ignored: a newer command may send them.
func decode(r io.Reader, to any) error {
	body, err := io.ReadAll(io.LimitReader(r, maxBody+1))
	if err == nil && len(body) > maxBody {
		err = fmt.Errorf("longer than %d bytes", maxBody)
	}
	if err == nil {
		err = json.Unmarshal(body, to)
	}
	if err != nil {
		return fmt.Errorf("%w request: %v: do command and daemon have the same version?", blob.ErrInvalid, err)
	}
	return nil
}

func answer(w http.ResponseWriter, code int, v any) {
	body, err := json.Marshal(v)
	if err != nil { // only a type that cannot be marshalled: a bug that every test of the route meets
		code, body = http.StatusInternalServerError, []byte(`{"error":"BUG: answer cannot be encoded"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(code)
	w.Write(body)
}

// fail answers with an error. The HTTP status tells tools such as curl no more than that it is one.
func fail(w http.ResponseWriter, err error) { answer(w, http.StatusUnprocessableEntity, FaultOf(err)) }

// long wraps one method that takes long: it streams progress as lines of JSON, the last of which is the reply.
func long[Q, A any](s *Server, f func(context.Context, Q, func(Progress)) (A, error), last func(*A) event) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var q Q
		if err := decode(r.Body, &q); err != nil {
			fail(w, err)
			return
		}
		w.Header().Set("Content-Type", "application/x-ndjson")
		send, flush := json.NewEncoder(w), http.NewResponseController(w)
		defer func() {
			if p := recover(); p != nil {
				s.log.Error("BUG: panic in the control interface", "path", r.URL.Path, "panic", p)
				send.Encode(event{Fault: FaultOf(fmt.Errorf("BUG: the daemon panicked: %v: please report it", p))})
			}
		}()
		var said time.Time
		reply, err := f(r.Context(), q, func(p Progress) {
			if now := time.Now(); now.Sub(said) >= progressEvery {
				said = now
				send.Encode(event{Progress: &p})
				flush.Flush()
			}
		})
		if err != nil {
			send.Encode(event{Fault: FaultOf(err)})
			return
		}
		send.Encode(last(&reply))
	}
}
