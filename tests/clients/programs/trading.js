// The trading client in JavaScript, as its document gives it: a page's code, run with Node's `ws`. Only the address is
// ours; what the document leaves to the page (updateOrderStatus, ...) prints.

const WebSocket = require('ws');

const GATEWAY = process.env.GATEWAY;
const userToken = process.argv[2];

class TradingWebSocket {
  constructor(token) {
    this.token = token;
    this.ws = null;
    this.reconnectAttempts = 0;
    this.maxReconnectAttempts = 5;
  }

  connect() {
    this.ws = new WebSocket(`${GATEWAY}/ws/trading?token=${this.token}`);

    this.ws.onopen = () => {
      console.log('Connected to trading WebSocket');
      this.reconnectAttempts = 0;
      this.subscribeToUpdates();
    };

    this.ws.onmessage = (event) => {
      const message = JSON.parse(event.data);
      this.handleMessage(message);
    };

    this.ws.onclose = () => {
      console.log('WebSocket connection closed');
      this.attemptReconnect();
    };

    this.ws.onerror = (error) => {
      console.error('WebSocket error:', error);
    };
  }

  subscribeToUpdates() {
    // Subscribe to order updates
    this.send({
      type: 'subscribe',
      channels: ['orders', 'risk_alerts', 'bot_status']
    });

    // Subscribe to price updates for watched symbols
    this.send({
      type: 'subscribe_symbol',
      symbols: ['BTCUSDT', 'ETHUSDT', 'ADAUSDT']
    });
  }

  handleMessage(message) {
    switch (message.type) {
      case 'order_update':
        this.updateOrderStatus(message);
        break;
      case 'risk_alert':
        this.showRiskAlert(message);
        break;
      case 'ticker':
        this.updatePriceDisplay(message);
        break;
      case 'pong':
        console.log('Received pong');
        break;
    }
  }

  send(message) {
    if (this.ws && this.ws.readyState === WebSocket.OPEN) {
      this.ws.send(JSON.stringify(message));
    }
  }

  attemptReconnect() {
    if (this.reconnectAttempts < this.maxReconnectAttempts) {
      this.reconnectAttempts++;
      setTimeout(() => this.connect(), 1000 * this.reconnectAttempts);
    }
  }
}

// What a page does with what it hears.
TradingWebSocket.prototype.updateOrderStatus = (message) => console.log('order', JSON.stringify(message));
TradingWebSocket.prototype.showRiskAlert = (message) => console.log('risk', JSON.stringify(message));
TradingWebSocket.prototype.updatePriceDisplay = (message) => console.log('price', JSON.stringify(message));

// Initialize WebSocket connection
const tradingWS = new TradingWebSocket(userToken);
tradingWS.connect();

// A page pings now and then.
process.stdin.on('data', () => tradingWS.send({ type: 'ping' }));
