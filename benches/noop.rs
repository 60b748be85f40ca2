//! An actix server that reads the same body and keeps nothing: what the machine can do at most.
//! `noop HOST:PORT`; threads, backlog and keep-alive as the server has them (src/web).

use std::time::Duration;

use actix_web::{App, HttpResponse, HttpServer, web};

fn main() -> std::io::Result<()> {
    actix_web::rt::System::new().block_on(serve())
}

async fn serve() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8099".to_owned());
    let take = |body: web::Bytes| async move {
        HttpResponse::Accepted()
            .content_type("application/json")
            .body(format!(r#"{{"event":{}}}"#, body.len()))
    };
    HttpServer::new(move || App::new().default_service(web::to(take)))
        .workers(2)
        .backlog(2048)
        .keep_alive(Duration::from_secs(75))
        .bind(address)?
        .run()
        .await
}
