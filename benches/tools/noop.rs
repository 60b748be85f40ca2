//! An actix server that reads each body and discards it: the upper bound of HTTP on this machine. Threads,
//! backlog and keep-alive are those of Hooktrail (src/web).

use std::time::Duration;

use actix_web::{App, HttpResponse, HttpServer, web};

pub fn run(address: &str) -> anyhow::Result<()> {
    Ok(actix_web::rt::System::new().block_on(serve(address))?)
}

async fn serve(address: &str) -> std::io::Result<()> {
    let respond = |body: web::Bytes| async move {
        HttpResponse::Accepted()
            .content_type("application/json")
            .body(format!(r#"{{"event":{}}}"#, body.len()))
    };
    HttpServer::new(move || App::new().default_service(web::to(respond)))
        .workers(2)
        .backlog(2048)
        .keep_alive(Duration::from_secs(75))
        .bind(address)?
        .run()
        .await
}
