import com.google.api.gax.core.NoCredentialsProvider;
import com.google.api.gax.grpc.InstantiatingGrpcChannelProvider;
import com.google.cloud.tasks.v2.CloudTasksClient;
import com.google.cloud.tasks.v2.CloudTasksSettings;
import com.google.cloud.tasks.v2.HttpRequest;
import com.google.cloud.tasks.v2.OidcToken;
import com.google.cloud.tasks.v2.Queue;
import com.google.cloud.tasks.v2.RateLimits;
import com.google.cloud.tasks.v2.Task;
import com.google.gson.Gson;
import com.google.protobuf.ByteString;
import com.google.protobuf.FieldMask;
import io.grpc.ManagedChannelBuilder;
import java.util.Map;

/**
 * Creates the task of one order with the official client: arguments ADDRESSES TRANSPORT ORDER_ID, where ADDRESSES is
 * the line that `python -m local up --json` prints, and TRANSPORT is grpc or rest. Before, it updates a queue.
 */
public class CreateTask {
  private static final String LOCATION = "projects/local-project/locations/us-central1";

  public static void main(String[] arguments) throws Exception {
    Map<?, ?> at = new Gson().fromJson(arguments[0], Map.class);
    String transport = arguments[1];
    String orderId = arguments[2];
    CloudTasksSettings.Builder settings;
    if (transport.equals("grpc")) {
      settings =
          CloudTasksSettings.newBuilder()
              .setTransportChannelProvider(
                  InstantiatingGrpcChannelProvider.newBuilder()
                      .setEndpoint((String) at.get("tasks_grpc"))
                      .setChannelConfigurator(ManagedChannelBuilder::usePlaintext)
                      .build());
    } else {
      settings = CloudTasksSettings.newHttpJsonBuilder().setEndpoint((String) at.get("tasks_rest"));
    }
    settings.setCredentialsProvider(NoCredentialsProvider.create());
    try (CloudTasksClient client = CloudTasksClient.create(settings.build())) {
      Queue queue =
          client.updateQueue(
              Queue.newBuilder()
                  .setName(LOCATION + "/queues/java-" + transport)
                  .setRateLimits(
                      RateLimits.newBuilder().setMaxDispatchesPerSecond(7).setMaxConcurrentDispatches(3))
                  .build(),
              FieldMask.newBuilder().addPaths("rate_limits.max_dispatches_per_second").build());
      RateLimits limits = queue.getRateLimits();
      System.out.printf("%.0f %d%n", limits.getMaxDispatchesPerSecond(), limits.getMaxConcurrentDispatches());

      String body =
          new Gson().toJson(Map.of("orderId", orderId, "action", "send_confirmation", "customerEmail", "ada@example.com"));
      HttpRequest request =
          HttpRequest.newBuilder()
              .setUrl(at.get("service_url") + "/process-order")
              .putHeaders("Content-Type", "application/json")
              .setBody(ByteString.copyFromUtf8(body))
              .setOidcToken(
                  OidcToken.newBuilder()
                      .setServiceAccountEmail((String) at.get("invoker_email"))
                      .setAudience((String) at.get("service_url")))
              .build();
      Task task =
          client.createTask(LOCATION + "/queues/cloud-run-tasks", Task.newBuilder().setHttpRequest(request).build());
      System.out.println(task.getName());
    }
  }
}
