// Creates the task of one order with the official client: `go run . ADDRESSES TRANSPORT ORDER_ID`, where ADDRESSES is
// the line that `python -m local up --json` prints, and TRANSPORT is grpc or rest. Before, it updates a queue.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"

	cloudtasks "cloud.google.com/go/cloudtasks/apiv2"
	"cloud.google.com/go/cloudtasks/apiv2/cloudtaskspb"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
)

const location = "projects/local-project/locations/us-central1"

func main() {
	ctx := context.Background()
	at := map[string]string{}
	if err := json.Unmarshal([]byte(os.Args[1]), &at); err != nil {
		log.Fatal(err)
	}
	transport, orderID := os.Args[2], os.Args[3]
	var client *cloudtasks.Client
	var err error
	if transport == "grpc" {
		client, err = cloudtasks.NewClient(ctx, option.WithEndpoint(at["tasks_grpc"]), option.WithoutAuthentication(),
			option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())))
	} else {
		client, err = cloudtasks.NewRESTClient(ctx, option.WithEndpoint(at["tasks_rest"]), option.WithoutAuthentication())
	}
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	queue, err := client.UpdateQueue(ctx, &cloudtaskspb.UpdateQueueRequest{
		Queue: &cloudtaskspb.Queue{
			Name:       location + "/queues/go-" + transport,
			RateLimits: &cloudtaskspb.RateLimits{MaxDispatchesPerSecond: 7, MaxConcurrentDispatches: 3},
		},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"rate_limits.max_dispatches_per_second"}},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(queue.RateLimits.MaxDispatchesPerSecond, queue.RateLimits.MaxConcurrentDispatches)

	body, err := json.Marshal(map[string]string{
		"orderId": orderID, "action": "send_confirmation", "customerEmail": "ada@example.com"})
	if err != nil {
		log.Fatal(err)
	}
	task, err := client.CreateTask(ctx, &cloudtaskspb.CreateTaskRequest{
		Parent: location + "/queues/cloud-run-tasks",
		Task: &cloudtaskspb.Task{MessageType: &cloudtaskspb.Task_HttpRequest{HttpRequest: &cloudtaskspb.HttpRequest{
			Url:     at["service_url"] + "/process-order",
			Headers: map[string]string{"Content-Type": "application/json"},
			Body:    body,
			AuthorizationHeader: &cloudtaskspb.HttpRequest_OidcToken{OidcToken: &cloudtaskspb.OidcToken{
				ServiceAccountEmail: at["invoker_email"], Audience: at["service_url"]}},
		}}},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(task.Name)
}
