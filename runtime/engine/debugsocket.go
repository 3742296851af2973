package engine

import (
	"context"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	"google.golang.org/grpc"
)

// containerd reads the namespace of a request from the incoming metadata, but
// passes it on only from the context; these two carry it over.

func unaryNamespace(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if ns, ok := namespaces.Namespace(ctx); ok {
		ctx = namespaces.WithNamespace(ctx, ns)
	}
	return next(ctx, req)
}

func streamNamespace(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	ctx := stream.Context()
	if ns, ok := namespaces.Namespace(ctx); ok {
		stream = &contextStream{ServerStream: stream, ctx: namespaces.WithNamespace(ctx, ns)}
	}
	return next(srv, stream)
}

type contextStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *contextStream) Context() context.Context { return s.ctx }
