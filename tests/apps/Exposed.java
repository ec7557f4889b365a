// Serves HTTP on a port, as a JVM's programs do.
import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;

class Exposed {
    public static void main(String[] arguments) throws Exception {
        var server = HttpServer.create(new InetSocketAddress(Integer.parseInt(arguments[0])), 0);
        server.createContext("/", exchange -> {
            var body = ("jvm " + exchange.getRequestURI() + "\n").getBytes();
            exchange.sendResponseHeaders(200, body.length);
            exchange.getResponseBody().write(body);
            exchange.close();
        });
        server.start();
        System.out.println("ready");
    }
}
